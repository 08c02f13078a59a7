"""GPTQ through Olive on a random model: closer to the parent than rounding alone, on text like its calibration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import BuildError, ConfigError
from optimize import child, gptq
from optimize.build import Build
from optimize.dataset.examples import Example, Shown, sample
from optimize.evaluate import gate_text
from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.recipe import BaseRecipe, GateRecipe, ModelRecipe, Recipe
from optimize.sources import FolderSource, Source
from tests.optimize.untuned import untuned

MODEL = ModelRecipe(
    "int4", algorithm="gptq", mixed_precision={"last_matmul": "int8"}, symmetric=False, fuse_mlp_gate_up=False,
    logits_rows=8, context_tokens=256,
)  # fmt: skip


def examples() -> Iterator[Example]:
    text = gate_text()
    for number in range(40):
        piece = text[number * 400 : number * 400 + 300]
        yield Example(str(number), f"d{number}", "What is said?", (Shown("", piece),), (piece[:60],), 1)


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path, build_cache: Path) -> Recipe:
    file = build_cache / "qa.jsonl"
    rows = [
        {"question": e.question, "context": e.passages[0].text, "answer": e.answers[0], "document": e.document}
        for e in examples()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(
        untuned(),
        base=BaseRecipe("test/tiny", "Apache-2.0", Source(folder=FolderSource(tiny_llama))),
        model=MODEL,
        gate=GateRecipe(1, 2, 0.1, 0.0, tokens=1000, window_tokens=128, prompts=2),
        finetune=FineTuneRecipe(DataRecipe((file,))),
    )


@pytest.mark.process
def test_gptq_builds_and_is_closer_than_plain_rounding(recipe: Recipe) -> None:
    child.quiet()
    build = Build(recipe, lambda stage, state: None)
    parent = build.parent()
    rounded = build.model(parent, MODEL)
    plain = build.model(parent, replace(MODEL, algorithm="k_quant"))
    sizes = [(stage.path / "model.onnx.data").stat().st_size for stage in (rounded, plain)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert 0 < build.gate(parent, rounded).kl_nats < build.gate(parent, plain).kl_nats
    assert [stage.name for stage in build.stages].count("gptq") == 1
    assert build.model(parent, MODEL).cached

    bare = Build(replace(recipe, finetune=None), lambda stage, state: None)
    with pytest.raises(ConfigError, match=r"needs finetune\.data"):
        bare.model(parent, MODEL)


def test_prompts_are_drawn_whole_until_there_are_enough(tiny_llama: Path) -> None:
    samples = [sample(one) for one in examples()]
    every = gptq.rows(tiny_llama, samples, tokens=10**9)
    some = gptq.rows(tiny_llama, samples, tokens=700)
    assert some == every[: len(some)] and 1 <= len(some) < len(every) == 40
    assert sum(map(len, some)) >= 700 > sum(map(len, some[:-1]))
    with pytest.raises(BuildError, match="no training prompt"):
        gptq.rows(tiny_llama, [])


def test_sensitive_layers_are_the_builders() -> None:
    mixed = replace(MODEL, mixed_precision={"last_matmul": "int8", "mixed_layers": "int8"})
    modules = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    weights = {f"model.layers.{layer}.{module}.weight" for layer in range(30) for module in modules}
    found = gptq.overrides(weights, 30, mixed)
    layers = sorted({int(name.split(".")[2]) for name in found})
    assert layers[:4] == [0, 1, 2, 3] and layers[-3:] == [27, 28, 29]
    assert len(found) == 4 * len(layers) and set(map(str, found.values())) == {"{'bits': 8}"}
    assert gptq.overrides(weights, 30, MODEL) == {}
    fused = gptq.overrides({"model.layers.0.self_attn.qkv_proj.weight"}, 30, mixed)
    assert list(fused) == ["model.layers.0.self_attn.qkv_proj"], "as Phi 3 has it"
    assert gptq.builder_recipe(mixed).mixed_precision == {"last_matmul": "int8"}


@pytest.mark.parametrize("changes", [{"precision": "int8", "mixed_precision": {}}, {"fuse_mlp_gate_up": True}])
def test_what_gptq_cannot_do_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="gptq needs"):
        replace(MODEL, **changes)  # type: ignore[arg-type]
