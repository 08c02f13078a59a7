"""The target qnn: what it refuses, what it writes down, and when it says that the NPU took too little.

The build itself, in the environment of qnn.lock, is run by hand: `edge optimize run npu-qnn`, `scripts/qualify npu`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.errors import BuildError, ConfigError, GateError
from optimize import environments
from optimize.recipe import AdapterRecipe, Recipe, load_recipe
from optimize.stages import Stage
from optimize.targets import get, npu_gate, qnn, qnn_build
from optimize.targets.qnn_recipe import NpuGate, QnnRecipe


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("npu-qnn")


def section(recipe: Recipe) -> QnnRecipe:
    assert recipe.qnn is not None
    return recipe.qnn


def test_recipe_without_its_section_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"npu-qnn\.yaml has one"):
        get("qnn").check(replace(recipe, qnn=None))


def test_context_longer_than_the_fallback_has_is_refused(recipe: Recipe) -> None:
    longer = replace(section(recipe), context_tokens=4096)
    with pytest.raises(ConfigError, match=r"4096, more than model\.context_tokens: 2048"):
        get("qnn").check(replace(recipe, qnn=longer))


def test_adapters_beside_the_model_are_refused(recipe: Recipe) -> None:
    beside = {"support": AdapterRecipe(path=Path("a"), sha256="0" * 64)}
    with pytest.raises(ConfigError, match="merge one"):
        get("qnn").check(replace(recipe, adapters=beside))


def test_environment_that_is_not_there_is_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    with pytest.raises(BuildError, match=r"make_environment\.py qnn"):
        get("qnn").check(recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_tokens": 8}, "chunk_tokens must be 16 or more"),
        ({"chunk_tokens": 4096}, "no more than context_tokens"),
        ({"soc_models": ("sm8650",)}, "are numbers"),
        ({"soc_models": ("60", "60")}, "names a chip twice"),
        ({"min_assigned_share": 1.5}, "between 0 and 1"),
    ],
)
def test_sections_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QnnRecipe(**changes)


def test_too_few_positions_decide_nothing() -> None:
    with pytest.raises(ValueError, match="at least 256"):
        NpuGate(tokens=255)


def stage(folder: Path, files: list[str]) -> Stage:
    return Stage("npu", "0" * 64, folder, "0" * 64, False, 0.0, dict.fromkeys(files, "0" * 64))


def compiled(folder: Path, left: dict[str, int]) -> Stage:
    counts = {"taken": {"MatMul": 90}, "left": left}
    (folder / qnn_build.ASSIGNED).write_text(json.dumps({"context": counts, "iterator": counts}))
    return stage(folder, [])


def test_operators_that_the_npu_leaves_are_named_with_their_share(recipe: Recipe, tmp_path: Path) -> None:
    judge = qnn._judge_assigned
    assert judge(compiled(tmp_path, {"Cast": 10}), section(recipe), "60") == {"context": 0.9, "iterator": 0.9}
    with pytest.raises(BuildError, match=r"takes 81\.8% of the nodes of context.*Cast \(9\.1%\), Softmax \(9\.1%\)"):
        judge(compiled(tmp_path, {"Softmax": 10, "Cast": 10}), section(recipe), "60")
    with pytest.raises(BuildError, match=r"takes 0\.0%"):
        (tmp_path / qnn_build.ASSIGNED).write_text(json.dumps({"context": {"taken": {}, "left": {}}}))
        judge(stage(tmp_path, []), section(recipe), "60")


def model_folder(folder: Path, special: list[str], *, end: int | list[int] = 1) -> Path:
    added = [{"id": place, "content": text, "special": True} for place, text in enumerate(special)]
    added.append({"id": 99, "content": "word", "special": False})
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    (folder / "genai_config.json").write_text(json.dumps({"model": {"bos_token_id": 0, "eos_token_id": end}}))
    (folder / "chat_template.jinja").write_text("<turn>{{ messages }}<end>")
    return folder


def test_chunks_are_filled_with_a_token_that_no_prompt_holds(tmp_path: Path) -> None:
    assert qnn_build.unused_token(model_folder(tmp_path, ["<bos>", "<end>", "<spare>", "<turn>"])) == 2
    for end in (2, [1, 2]):
        with pytest.raises(BuildError, match="this has none"):
            qnn_build.unused_token(model_folder(tmp_path, ["<bos>", "<end>", "<spare>", "<turn>"], end=end))


def test_lengths_are_the_recipes_and_ends_the_cpu_forms(recipe: Recipe) -> None:
    config = {"model": {"eos_token_id": 7, "context_length": 8192}, "search": {"max_length": 8192}}
    of_cpu = {"model": {"bos_token_id": 1, "eos_token_id": [2, 3]}}
    told = qnn_build.settled(config, of_cpu, section(recipe), 16)
    assert told["model"] == {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 16, "context_length": 2048}
    assert told["search"] == {"max_length": 2048}


def test_manifest_names_chip_package_and_version(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "context_qnn.bin").write_bytes(b"12345")
    made = stage(tmp_path, ["context_qnn.bin", "tokenizer.json"])
    entry = qnn.entry(made, section(recipe), "60")
    assert (entry.path, entry.provider, entry.soc_model) == ("npu-60", "QNNExecutionProvider", "60")
    assert (entry.package, entry.package_version) == ("onnxruntime-qnn", qnn.pinned("onnxruntime-qnn"))
    assert (entry.weights_bytes, entry.stages, entry.min_assigned_share) == (5, ("context", "iterator"), 0.9)
    assert entry.provider_options["soc_model"] == "60"
    plain = qnn.entry(made, section(recipe), None)
    assert (plain.path, plain.provider, plain.devices) == ("npu", "CPUExecutionProvider", ("CPU",))


def test_lock_file_has_what_the_recipe_was_seen_to_work_with() -> None:
    assert environments.lock_file("qnn").is_file()
    assert (qnn.pinned("onnxruntime-genai"), qnn.pinned("torch")) == ("0.14.1", "2.13.0")
    with pytest.raises(BuildError, match="does not pin tensorflow"):
        qnn.pinned("tensorflow")


def test_gate_shows_every_figure_and_refuses_nan() -> None:
    result = npu_gate.NpuResult(1024, 0.9189, 0.025, 0.9473, 0.018, 0.9473, 0.0077)
    kept = npu_gate.judge("the form", result, NpuGate(min_top1_agreement=0.9), (0.01, 0.05))
    assert kept["thresholds"] == {
        "top1_agreement": 0.9, "kl_nats": 0.05, "parent_top1_loss": 0.01, "parent_kl_nats": 0.05,
    }  # fmt: skip
    with pytest.raises(GateError, match=r"parent_top1_loss +0\.02 +must be <= 0\.01 +MISSED"):
        npu_gate.judge(
            "the form", replace(result, parent_top1_agreement=0.9273), NpuGate(min_top1_agreement=0.9), (0.01, 0.05)
        )
    with pytest.raises(GateError, match=r"top1_agreement +0\.9189 +must be >= 0\.95 +MISSED"):
        npu_gate.judge("the form", result, NpuGate())
    with pytest.raises(GateError, match=r"kl_nats +nan .*MISSED"):
        npu_gate.judge("the form", replace(result, top1_agreement=1.0, kl_nats=float("nan")), NpuGate())
