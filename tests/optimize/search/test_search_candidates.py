"""What is tried: the shipped list, what a candidate inherits, and what is refused at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError, UsageError
from optimize.recipe import ModelRecipe
from optimize.search.candidates import STORED, SearchRecipe, expand, load_search, reference

BASE = ModelRecipe(
    "int4", block_size=64, algorithm="k_quant", mixed_precision={"last_matmul": "int8"}, symmetric=False,
    logits_rows=8, kv_cache="int8", context_tokens=1024, fuse_mlp_gate_up=False,
)  # fmt: skip


def test_the_shipped_list_expands_over_any_recipe() -> None:
    shipped = load_search()
    found = expand(shipped.candidates, BASE)
    assert list(found) == list(shipped.candidates)
    assert {model.precision for model in found.values()} == {"int8", "int4"}
    assert {model.block_size for model in found.values() if model.precision == "int4"} == {16, 32}
    assert {model.algorithm for model in found.values()} == {"default", "k_quant", "gptq"}
    assert (shipped.max_f1_loss, shipped.min_questions, shipped.gate_tokens) == (0.01, 500, 10_240)
    assert SearchRecipe(shipped.candidates) == shipped, "the file holds the defaults"


def test_every_key_of_the_file_stands_in_the_shipped_one() -> None:
    import yaml

    import edge

    text = (Path(edge.__file__).resolve().parent / "configs" / "search" / "default.yaml").read_text(encoding="utf-8")
    keys = yaml.safe_load(text)
    assert set(keys) == {spec.name for spec in dataclasses.fields(SearchRecipe)}
    assert set(keys["speed"]) == {spec.name for spec in dataclasses.fields(SearchRecipe({"a": {}}).speed)}


def test_a_candidate_takes_how_it_runs_from_the_recipe_and_nothing_of_how_it_is_stored() -> None:
    model = expand({"a": {"precision": "int8"}}, BASE)["a"]
    assert (model.logits_rows, model.context_tokens, model.fuse_mlp_gate_up) == (8, 1024, False)
    default = ModelRecipe("int8")
    assert all(getattr(model, key) == getattr(default, key) for key in STORED)
    assert reference(BASE).precision == "fp32" and reference(BASE).logits_rows == 8


@given(st.sampled_from([16, 32, 64, 128, 256]), st.sampled_from(["default", "k_quant"]), st.integers(0, 9))
def test_what_a_candidate_names_wins(block: int, algorithm: str, rows: int) -> None:
    changes = {"precision": "int4", "block_size": block, "algorithm": algorithm, "logits_rows": rows}
    model = expand({"a": changes}, BASE)["a"]
    assert {key: getattr(model, key) for key in changes} == changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "int4", "blok_size": 16}, "unknown key blok_size"),
        ({"precision": "int4", "block_size": 17}, "block_size must be"),
        ({"precision": "int3"}, "must be one of"),
        ({"precision": "int8", "mixed_precision": {"last_matmul": "int8"}}, "needs precision: int4"),
        ({"block_size": 16}, "precision is missing"),
        ({"precision": "fp32"}, "'fp32' and 'odd' are the same build"),
    ],
)
def test_a_candidate_that_is_none_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        expand({"odd": changes}, BASE)
    assert "odd" in str(caught.value) and "line" not in str(caught.value)


def test_two_names_for_one_build_are_refused() -> None:
    with pytest.raises(ConfigError, match="'a' and 'b' are the same build"):
        expand({"a": {"precision": "int8"}, "b": {"precision": "int8", "block_size": 32}}, BASE)


def test_only_some() -> None:
    candidates = {"a": {"precision": "int8"}, "b": {"precision": "int4"}}
    assert list(expand(candidates, BASE, ["b"])) == ["b"]
    with pytest.raises(UsageError, match="no candidate is called c; there are a, b"):
        expand(candidates, BASE, ["c"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("candidates: {}", "at least one"),
        ("candidates: {fp32: {precision: int8}}", "fp32 is taken"),
        ("candidates: {a: {precision: int8}}\nmax_loss: 1", "line 2: unknown key 'max_loss'"),
        ("candidates: {a: {precision: int8}}\nmax_f1_loss: 0.0", "max_f1_loss must be between"),
        ("candidates: {a: {precision: int8}}\ntest_share: 1.0", "test_share must be between"),
        ("candidates: {a: {precision: int8}}\nspeed: {new_tokens: 2}", "new_tokens 8 or more"),
        ("candidates: [int8]", "must be a mapping"),
    ],
)
def test_a_file_that_does_not_hold_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_search(file)
