"""Recipes: the shipped ones load and explain themselves, and what is wrong in one is named with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.errors import ConfigError
from optimize import quantize
from optimize.recipe import DEFAULT, ModelRecipe, Recipe, load_recipe, shipped

TEXTS = {name: path.read_text(encoding="utf-8") for name, path in shipped().items()}


def test_default_is_one_of_the_shipped() -> None:
    assert set(TEXTS) >= {"cpu-int4", "cpu-int8", DEFAULT}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_shipped_recipe_loads_and_says_everything(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe == load_recipe(str(shipped()[name]))
    for section in (recipe, recipe.model, recipe.gate, recipe.embedder):
        for key in vars(section):
            assert re.search(rf"^ *{key}:.*#|^ *{key}: *$", TEXTS[name], re.M), f"{key} is missing or has no comment"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "block_size: 32",
            "int4_block_size: 32",
            r"line \d+: unknown key 'model\.int4_block_size'; known",
        ),
        ("block_size: 32", "block_size: 48", "block_size must be 16, 32, 64, 128 or 256"),
        (
            "precision: int8 # int4",
            "precision: int3 # int4",
            r"line \d+: model\.precision is 'int3'; it must",
        ),
        ("accuracy_level: 4", "accuracy_level: 2", "accuracy_level must be 1"),
        ("mixed_precision: {}", "mixed_precision: {last_matmul: int8}", "needs precision: int4"),
        ("context_tokens: 2048", "context_tokens: many", r"model\.context_tokens is 'many'; it must be of type int"),
        ("target: cpu", "target: gpu", "target is 'gpu'"),
        ("version: 0.1.2\n      wheel_sha256: bcc8", "version: 0.1.2\n      wheel_sha256: xyz8", "64 lower-case hex"),
        ("max_kl_nats", "max_kl", "unknown key 'gate.max_kl'"),
        ("    wheel: # a file", "    hub: # a file", "unknown key"),
    ],
)
def test_wrong_recipe_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXTS["cpu-int8"]
    path = tmp_path / "r.yaml"
    path.write_text(TEXTS["cpu-int8"].replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="cpu-int4, cpu-int8"):
        load_recipe("no-such-recipe")
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe("no-such-recipe.yaml")


def test_paths_in_a_recipe_start_at_its_folder(tmp_path: Path) -> None:
    wheel = re.search(r"    wheel: # a file.*?(?=\nmodel:)", TEXTS["cpu-int8"], re.S)
    assert wheel
    text = TEXTS["cpu-int8"].replace(wheel.group(), "    folder: {path: weights}\n")
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    folder = load_recipe(str(tmp_path / "r.yaml")).base.source.folder
    assert folder is not None
    assert folder.path == tmp_path / "weights"


def test_options_have_the_names_that_the_builder_reads() -> None:
    """onnxruntime-genai ignores what it does not know, so every name we pass must occur in its source."""
    import onnxruntime_genai

    source = "".join(
        path.read_text(encoding="utf-8") for path in Path(onnxruntime_genai.__file__).parent.rglob("models/**/*.py")
    )
    recipe = ModelRecipe("int4", mixed_precision={"last_matmul": "int8"}, kv_cache="int8")
    for name in quantize.builder_options(recipe, Path("scales.json")):
        assert f'extra_options.get("{name}"' in source or f'extra_options["{name}"]' in source, name


def test_options_follow_the_recipe() -> None:
    options = quantize.builder_options(ModelRecipe("int4", block_size=16, algorithm="k_quant"))
    assert (options["block_size"], options["algo_config"], options["shared_embeddings"]) == (16, "k_quant", True)
    mixed = ModelRecipe("int4", mixed_precision={"last_matmul": "int8", "mixed_layers": "int8"})
    options = quantize.builder_options(mixed)
    assert options["matmul_mixed_precision"] == "last_matmul:int8,mixed_layers:int8"
    assert options["shared_embeddings"] is False, "an int8 table is tied by head.tie_int8_embedding"
    assert [quantize.builder_options(ModelRecipe("int8", logits_rows=n))["prune_lm_head"] for n in (0, 1, 8)] == [
        False,
        True,
        False,
    ]


def test_adapters_have_names_and_paths_at_the_recipe_s_folder(tmp_path: Path) -> None:
    def loaded(entries: str) -> Recipe:
        text = re.sub(r"^adapters: .*$", f"adapters: {entries}", TEXTS["cpu-int8"], flags=re.M)
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        return load_recipe(str(tmp_path / "r.yaml"))

    entry = f"path: ad, sha256: '{'0' * 64}'"
    found = loaded(f"{{legal: {{{entry}, answers: marked}}, plain: {{{entry}}}}}").adapters
    assert {name: (one.path, one.answers) for name, one in found.items()} == {
        "legal": (tmp_path / "ad", "marked"),
        "plain": (tmp_path / "ad", "free"),
    }
    for wrong, message in (
        (f"{{../up: {{{entry}}}}}", "is no name"),
        ("{a: {path: ad}}", "sha256"),
        (f"{{a: {{{entry}, rank: 4}}}}", "unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            loaded(wrong)
