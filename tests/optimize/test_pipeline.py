"""The path of a model with the real tools (Olive runs), on a random model of 100,000 weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.errors import BuildError, GateError, SourceError
from optimize import child, evaluate, pipeline, quantize
from optimize.build import Build
from optimize.export import export_parent
from optimize.recipe import BaseRecipe, GateRecipe, ModelRecipe, Recipe
from optimize.sources import FolderSource, Source
from optimize.stages import Stage
from tests.optimize.untuned import untuned

pytestmark = pytest.mark.process


def silent(stage: str, state: str) -> None:
    pass


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path, build_cache: Path) -> Recipe:
    return replace(
        untuned(),
        base=BaseRecipe("test/tiny", "Apache-2.0", Source(folder=FolderSource(tiny_llama))),
        model=ModelRecipe("int8", context_tokens=256),
        gate=GateRecipe(0.05, 1.05, 0.8, 0.1, tokens=1000, window_tokens=128, prompts=4),
    )


@pytest.fixture(scope="module")
def built(recipe: Recipe) -> tuple[Build, Stage, Stage]:
    child.quiet()
    build = Build(recipe, silent)
    parent = build.parent()
    return build, parent, build.model(parent, recipe.model)


def test_build_holds_what_the_runtime_needs_and_nothing_else(built: tuple[Build, Stage, Stage]) -> None:
    _, _, model = built
    assert set(model.files) == set(quantize.KEPT)
    config = json.loads((model.path / "genai_config.json").read_text())
    assert config["search"]["max_length"] == 256


def test_embedding_and_head_read_one_int8_table(built: tuple[Build, Stage, Stage]) -> None:
    import onnx

    _, _, model = built
    graph = onnx.load(model.path / quantize.GRAPH).graph
    lookup = next(node for node in graph.node if node.op_type == "GatherBlockQuantized")
    head = next(node for node in graph.node if node.name.startswith("/lm_head/") and node.op_type == "MatMulNBits")
    assert lookup.input[0] == head.input[1]
    floats = [tensor.name for tensor in graph.initializer if tensor.data_type == 1 and list(tensor.dims) == [512, 64]]
    assert floats == [], "no fp32 table is left"
    stored = sum(len(tensor.raw_data) for tensor in graph.initializer)
    assert (model.path / quantize.WEIGHTS).stat().st_size < stored + 64 * 2**10, "nor is one left behind in the file"


def test_gate_finds_the_build_close_and_a_damaged_one_far(built: tuple[Build, Stage, Stage], tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    build, parent, model = built
    close = build.gate(parent, model)
    assert 1000 <= close.tokens < 1128
    assert 0 < close.kl_nats < 0.05
    assert close.perplexity_ratio == pytest.approx(close.perplexity / close.parent_perplexity, rel=1e-3)
    assert close.top1_agreement > 0.8
    reference = next(stage for stage in build.stages if stage.name == "reference")

    damaged = tmp_path / "damaged"
    shutil.copytree(model.path, damaged)
    graph = onnx.load(damaged / quantize.GRAPH)
    scales = next(tensor for tensor in graph.graph.initializer if tensor.name == "lm_head.MatMul.weight_scales")
    scales.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scales)[::-1].copy(), scales.name))
    onnx.save(graph, damaged / quantize.GRAPH)
    far = evaluate.compare(damaged, reference.path)
    assert far.parent_perplexity == close.parent_perplexity
    assert far.kl_nats > 5 * close.kl_nats
    assert far.top1_agreement < close.top1_agreement
    assert far.greedy_agreement < close.greedy_agreement


def test_int8_kv_cache_is_calibrated_and_compared(built: tuple[Build, Stage, Stage]) -> None:
    build, parent, _ = built
    model = build.model(parent, ModelRecipe("int8", context_tokens=256, kv_cache="int8"))
    result = build.gate(parent, model)
    assert 0 < result.kl_nats < 0.1


def test_second_run_builds_nothing_and_failed_gate_packages_nothing(recipe: Recipe, tmp_path: Path) -> None:
    states: list[tuple[str, str]] = []
    strict = replace(recipe, gate=replace(recipe.gate, max_kl_nats=1e-9))
    with pytest.raises(GateError) as caught:
        pipeline.run(strict, tmp_path / "bundle", lambda stage, state: states.append((stage, state)))
    assert caught.value.exit_code == 4
    assert "kl_nats" in str(caught.value)
    assert "FAILED" in str(caught.value)
    assert [stage for stage, state in states if state == "built"] == []
    assert list(tmp_path.iterdir()) == []


def test_what_the_model_cannot_give_is_refused_at_once(recipe: Recipe, tmp_path: Path) -> None:
    long = replace(recipe, model=replace(recipe.model, context_tokens=1024))
    with pytest.raises(BuildError, match="trained for 512"):
        pipeline.run(long, tmp_path / "bundle", silent)


def test_olive_failure_names_its_log(recipe: Recipe, built: tuple[Build, Stage, Stage], tmp_path: Path) -> None:
    """A weights file cut short: Olive logs the pass's error and ends without a model, and that is an error here."""
    parent = built[1].path
    broken = tmp_path / "parent"
    broken.mkdir()
    for file in parent.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError) as caught:
        quantize.build_model(broken, recipe.model, tmp_path / "out", "broken-on-purpose")
    message = str(caught.value)
    log = next(Path(word.rstrip(";")) for word in message.split() if word.rstrip(";").endswith("broken-on-purpose.log"))
    assert "Olive (ModelBuilder)" in message
    assert log.is_file()
    assert log.read_text(errors="replace").rstrip().splitlines()[-1].strip() in message


def test_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0123abcd").write_bytes(b"not a model at all")
    with pytest.raises(SourceError, match="not a GGUF file"):
        export_parent(tmp_path / "0123abcd", tmp_path / "out", "not-gguf")


@pytest.mark.parametrize("rows", [0, 1, 8])
def test_logits_of_the_last_rows_are_those_of_the_whole_graph(
    built: tuple[Build, Stage, Stage], tmp_path: Path, rows: int
) -> None:
    import numpy as np
    import onnxruntime_genai as og

    build, parent, _ = built
    quantize.build_model(parent.path, replace(build.recipe.model, logits_rows=rows), tmp_path, f"rows-{rows}")
    tokens: Any = np.arange(20, 60, dtype=np.int64)
    every = evaluate.teacher_forced(tmp_path)(tokens)
    assert every.shape == (40, 512)
    engine = og.Model(str(tmp_path))
    params = og.GeneratorParams(engine)
    params.set_search_options(max_length=64)
    generator = og.Generator(engine, params)
    generator.append_tokens(tokens.astype(np.int32))
    given = generator.get_output("logits")[0]
    kept = rows or 40
    np.testing.assert_allclose(given[-kept:], every[-kept:], rtol=1e-3, atol=1e-3)
    assert given.shape[0] == (1 if rows == 1 else 40)
    assert not given[:-kept].any()
