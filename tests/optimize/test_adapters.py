"""Adapters that stay separate: each says what peft says, and one that does not fit is refused before it is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import bundle
from edge.engine import prepared
from edge.engine.base import EngineOptions, Sampling
from edge.engine.genai import GenaiEngine
from edge.engine.worker import WorkerEngine
from edge.errors import BuildError, EngineError, UsageError
from edge.files import sha256_file
from optimize import adapter_file, adapter_graph, adapters, child, manifest, quantize
from optimize.build import Build
from optimize.finetune import ADAPTER, CARD, CONFIG
from optimize.recipe import AdapterRecipe, BaseRecipe, ModelRecipe, Recipe
from optimize.sources import FolderSource, Source
from tests.fakes import manifest_of, write_bundle, write_seal
from tests.optimize.untuned import untuned

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
BASE = "test/tiny"
ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"a": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"], "b": ["q_proj", "up_proj"]}
RANKS = {"a": 4, "b": 8}
TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 500, 40)]


def write_adapter(base: Path, folder: Path, targets: list[str], rank: int, seed: int = 0, std: float = 0.1) -> None:
    """A random adapter in peft's format."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    change(folder, base_model_name_or_path=BASE)


def change(folder: Path, **values: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def ready(tiny_llama: Path, build_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The adapters a and b, in peft's format."""
    child.quiet()
    folder = tmp_path_factory.mktemp("ready")
    for seed, name in enumerate(TARGETS):
        write_adapter(tiny_llama, folder / name, TARGETS[name], RANKS[name], seed)
    return {name: folder / name for name in TARGETS}


@pytest.fixture(scope="module")
def reference(tiny_llama: Path, ready: dict[str, Path]) -> dict[str | None, Any]:
    """Logits of the last token, float32 (vocabulary), as transformers and peft have them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = {}
    for name in (None, *ready):
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        if name:
            model = PeftModel.from_pretrained(model, ready[name])
        with torch.no_grad():
            found[name] = model.eval()(torch.tensor([TOKENS])).logits[0, -1].numpy()
    return found


@pytest.fixture(scope="module")
def recipe(tiny_llama: Path, ready: dict[str, Path]) -> Recipe:
    return replace(
        untuned(),
        base=BaseRecipe(BASE, "Apache-2.0", Source(folder=FolderSource(tiny_llama))),
        model=ModelRecipe("int8", context_tokens=256, logits_rows=8),
        adapters={name: AdapterRecipe(path, sha256_file(path / ADAPTER)) for name, path in ready.items()},
    )


def built(recipe: Recipe, model: ModelRecipe) -> tuple[Path, Path]:
    """The plain build and the one with adapters."""
    build = Build(replace(recipe, model=model), lambda *_: None)
    parent = build.parent()
    plain = build.model(parent, model)
    return plain.path, build.adapted(parent, plain).path


@pytest.fixture(scope="module")
def fp32(recipe: Recipe) -> tuple[Path, Path]:
    return built(recipe, ModelRecipe("fp32", context_tokens=256, shared_embeddings=False))


@pytest.fixture(scope="module")
def int8(recipe: Recipe) -> tuple[Path, Path]:
    return built(recipe, recipe.model)


def files(folder: Path) -> dict[str, Path]:
    return {name: folder / "adapters" / f"{name}.onnx_adapter" for name in TARGETS}


def engine_of(folder: Path, **options: int) -> GenaiEngine:
    chosen = EngineOptions(**({"context_tokens": 128, "threads": 1} | options))
    return GenaiEngine(folder, "", (), chosen, files(folder) if (folder / "adapters").is_dir() else None)


def written(engine: GenaiEngine | WorkerEngine, adapter: str | None, tokens: list[int]) -> tuple[list[int], int]:
    session = engine.start(tokens, Sampling(max_tokens=12), adapter=adapter)
    return [token.id for token in session], session.stats.cached_tokens


def test_fp32_build_says_what_peft_says(fp32: tuple[Path, Path], reference: dict[str | None, Any]) -> None:
    plain, separate = fp32
    with closing(engine_of(separate)) as engine, closing(engine_of(plain)) as without:
        for name, wanted in reference.items():
            np.testing.assert_allclose(engine.probe(TOKENS, name)[-1], wanted, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(engine.probe(TOKENS), without.probe(TOKENS))
    assert np.abs(reference["a"] - reference[None]).max() > 1


def test_int8_build_is_as_near_with_an_adapter_as_without(
    int8: tuple[Path, Path], reference: dict[str | None, Any]
) -> None:
    """Tolerance: 1.5 times what int8 costs the base."""
    with closing(engine_of(int8[1])) as engine, closing(engine_of(int8[0])) as without:
        far = {name: np.abs(engine.probe(TOKENS, name)[-1] - wanted).max() for name, wanted in reference.items()}
        np.testing.assert_array_equal(engine.probe(TOKENS), without.probe(TOKENS))
    assert 0 < far[None] < 0.5
    assert max(far["a"], far["b"]) < 1.5 * far[None]


def test_build_keeps_its_shape_and_says_what_is_beside_it(recipe: Recipe, int8: tuple[Path, Path]) -> None:
    plain, separate = int8
    assert sha256_file(plain / quantize.WEIGHTS) == sha256_file(separate / quantize.WEIGHTS)
    section = manifest._model_section(recipe, separate)
    assert [(entry.name, entry.rank, entry.answers) for entry in section.adapters] == [
        ("a", 4, "free"),
        ("b", 8, "free"),
    ]
    for entry in section.adapters:
        file = separate / entry.path.removeprefix("model/")
        assert (entry.sha256, entry.bytes) == (sha256_file(file), file.stat().st_size)
    inputs = adapter_graph.input_shapes(separate)
    name = "model.layers.1.attn.qkv_proj.lora_{}.MatMul.weight"
    assert inputs[name.format("A")] == (64, "model.layers.1.attn.qkv_proj.lora_r")
    assert inputs[name.format("B")] == ("model.layers.1.attn.qkv_proj.lora_r", 128)
    found = adapter_file.exported(files(separate)["a"])
    assert found[name.format("A")].shape == (64, 8), "q and v beside each other"
    assert not found[name.format("B")][:4, 64:].any(), "q's rows reach q's outputs only"
    assert not found[name.format("B")][:, 64:96].any(), "k has no adapter"
    assert built(recipe, recipe.model) == int8


def test_int8_kv_cache_stays_and_its_ranges_are_checked(recipe: Recipe, tiny_llama: Path, tmp_path: Path) -> None:
    import onnx

    write_adapter(tiny_llama, tmp_path / "mild", ["q_proj", "v_proj"], 2, std=0.005)
    write_adapter(tiny_llama, tmp_path / "wild", ["q_proj", "v_proj"], 2, std=2.0)
    model = replace(recipe.model, kv_cache="int8")
    chosen = {
        name: AdapterRecipe(tmp_path / name, sha256_file(tmp_path / name / ADAPTER), answers="marked")
        for name in ("mild", "wild")
    }
    _, separate = built(replace(recipe, adapters={"mild": chosen["mild"]}), model)
    graph = onnx.load(separate / quantize.GRAPH, load_external_data=False).graph
    cache = next(given for given in graph.input if given.name == "past_key_values.0.key")
    assert cache.type.tensor_type.elem_type == onnx.TensorProto.INT8
    assert [(entry.name, entry.answers) for entry in adapters.entries(separate, "model")] == [("mild", "marked")]
    with pytest.raises(BuildError, match=r"adapter wild: its values reach .* times the range .*float32"):
        built(replace(recipe, adapters={"wild": chosen["wild"]}), model)


def drop(folder: Path, part: str) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / ADAPTER)
    save_file({name: array for name, array in weights.items() if part not in name}, folder / ADAPTER)


def spoil(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / ADAPTER)
    weights[min(weights)][0, 0] = np.nan
    save_file(weights, folder / ADAPTER)


REFUSED: dict[str, tuple[Any, str]] = {
    "DoRA by its key": (lambda f: change(f, use_dora=True), "DoRA"),
    "rank-stabilized": (lambda f: change(f, use_rslora=True), "use_rslora"),
    "an own rank": (lambda f: change(f, rank_pattern={"q_proj": 2}), "rank_pattern"),
    "some layers": (lambda f: change(f, layers_to_transform=[0]), "layers_to_transform"),
    "biases": (lambda f: change(f, bias="all"), "bias: none"),
    "wrong rank": (lambda f: change(f, r=16), "says rank 16, the weights have 4"),
    "no alpha": (lambda f: change(f, lora_alpha=None), "no lora_alpha"),
    "another base": (lambda f: change(f, base_model_name_or_path="other/base"), "adapter for another base"),
    "other weights": (
        lambda f: (f / CARD).write_text(json.dumps({"base": {"weights_sha256": "0" * 64}})),
        "trained on other weights",
    ),
    "missing layer": (
        lambda f: drop(f, "layers.1.self_attn.v_proj"),
        r"nothing for model\.layers\.1\.self_attn\.v_proj",
    ),
    "half a layer": (lambda f: drop(f, "layers.1.self_attn.v_proj.lora_B"), "half of the adapter"),
    "cut short": (lambda f: (f / ADAPTER).write_bytes((f / ADAPTER).read_bytes()[:-10]), "cut short"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_adapter_that_does_not_fit_is_refused(
    what: str, tiny_llama: Path, ready: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    shutil.copytree(ready["a"], folder)
    assert adapter_file.check("a", folder, tiny_llama, BASE).rank == 4
    spoiler, message = REFUSED[what]
    spoiler(folder)
    with pytest.raises(BuildError, match=message if what != "DoRA by its key" else "DoRA|do not agree"):
        adapter_file.check("a", folder, tiny_llama, BASE)


def test_all_are_checked_before_one_is_written(
    tiny_llama: Path, ready: dict[str, Path], int8: tuple[Path, Path], tmp_path: Path
) -> None:
    good = adapter_file.check("a", ready["a"], tiny_llama, BASE)
    shutil.copytree(ready["b"], tmp_path / "b")
    bad = replace(adapter_file.check("b", tmp_path / "b", tiny_llama, BASE), rank=3)
    spoil(tmp_path / "b")
    recipes = {name: AdapterRecipe(path, "0" * 64) for name, path in ready.items()}
    with pytest.raises(BuildError, match="holds NaN"):
        (tmp_path / "out").mkdir()
        adapters.add([good, bad], recipes, tiny_llama, int8[0], None, tmp_path / "out")
    assert not (tmp_path / "out" / "adapters").exists()


def test_names_and_shapes_are_those_of_the_build(
    tiny_llama: Path, ready: dict[str, Path], int8: tuple[Path, Path]
) -> None:
    adapter = adapter_file.check("a", ready["a"], tiny_llama, BASE)
    inputs = adapter_graph.input_shapes(int8[1])
    weights = adapter_file.exported(files(int8[1])["a"])
    adapter_file.check_inputs(adapter, weights, inputs)
    name = min(weights)
    for changed, message in (
        ({**weights, "model.layers.9.x.lora_A.MatMul.weight": weights[name]}, "takes no such input"),
        ({**weights, name: weights[name][:-1]}, "has the shape .* the build takes"),
        ({**weights, name: weights[name][:, :-1]}, "has the shape|the build takes"),  # A and B of different ranks
        ({**weights, name: weights[name].astype(np.float16)}, "has the shape"),
        ({key: array for key, array in weights.items() if key != name}, "is missing"),
        ({}, "everything is missing"),
    ):
        with pytest.raises(BuildError, match=message):
            adapter_file.check_inputs(adapter, changed, inputs)


# On the runtime


@pytest.fixture(scope="module")
def fresh(int8: tuple[Path, Path]) -> Iterator[Any]:
    """What is written for a prompt under an adapter where no prefix is kept."""
    with closing(engine_of(int8[1], prefix_caches=0)) as engine:
        yield lambda adapter, tokens: written(engine, adapter, tokens)[0]


def test_prefix_is_never_shared_between_adapters(int8: tuple[Path, Path], fresh: Any) -> None:
    """Adapters and prompts in every order, through caches of one, two and three generators."""
    rng = np.random.default_rng(1)
    prompts = [TOKENS[:30], TOKENS[:30] + TOKENS[5:15], TOKENS[10:40]]
    wanted = {(name, index): fresh(name, prompt) for name in (None, "a", "b") for index, prompt in enumerate(prompts)}
    assert len({tuple(wanted[name, 0]) for name in (None, "a", "b")}) == 3, "else this says nothing"
    for size in (1, 2, 3):
        with closing(engine_of(int8[1], prefix_caches=size)) as engine:
            last: str | None = "none yet"
            kept = 0
            for _ in range(24):
                name, index = (None, "a", "b")[rng.integers(3)], int(rng.integers(len(prompts)))
                tokens, cached = written(engine, name, prompts[index])
                assert tokens == wanted[name, index]
                if size == 1 and name != last:
                    assert cached == 0
                last, kept = name, kept + cached
            assert kept > 0


def test_drafts_change_nothing_under_an_adapter(int8: tuple[Path, Path], fresh: Any) -> None:
    repeating = TOKENS[:8] * 4
    with closing(engine_of(int8[1], draft_tokens=4, draft_ngram=2)) as engine:
        for name in ("a", None, "b", "a"):
            assert written(engine, name, repeating)[0] == fresh(name, repeating)


def test_unknown_and_damaged_adapters_say_what_to_do(int8: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx_adapter"
    broken.write_bytes(files(int8[1])["a"].read_bytes()[:1000])
    with closing(GenaiEngine(int8[1], "", (), EngineOptions(64), {"broken": broken})) as engine:
        with pytest.raises(UsageError, match="no adapter 'c': it has broken"):
            engine.start(TOKENS, Sampling(), adapter="c")
        with pytest.raises(EngineError, match="edge bundle verify"):
            list(engine.start(TOKENS, Sampling(max_tokens=2), adapter="broken"))
        assert len(list(engine.start(TOKENS, Sampling(max_tokens=2)))) == 2, "the base goes on"


@pytest.fixture(scope="module")
def bundles(fp32: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundles of the plain fp32 build and of the one with adapters; their embedders are made up."""
    made = []
    for model in fp32:
        folder = write_bundle(tmp_path_factory.mktemp("bundle"))
        shutil.rmtree(folder / "model")
        shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns("stage.json", adapters.RECORD))
        found = manifest_of(folder)
        section = replace(found.model, adapters=adapters.entries(model, "model"), stop_tokens=())
        write_seal(folder, replace(found, model=section))
        made.append(folder)
    return made[0], made[1]


def test_worker_passes_the_adapter_on_and_a_prepared_copy_takes_it_too(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    loaded = bundle.load(bundles[1])
    folder = prepared.prepare(loaded, tmp_path)  # compares logits, with each adapter too
    with closing(engine_of(loaded.path / "model", prefix_caches=0)) as here:
        wanted = {name: written(here, name, TOKENS)[0] for name in (None, "a", "b")}
    named = {entry.name: loaded.path / entry.path for entry in loaded.manifest.model.adapters}
    with closing(WorkerEngine(folder, "", (), EngineOptions(128, 1), adapters=named)) as engine:
        for name in (None, "a", "b", None):
            assert written(engine, name, TOKENS)[0] == wanted[name]
        with pytest.raises(UsageError, match="it has a, b"):
            engine.start(TOKENS, Sampling(), adapter="c")


def test_script_prints_medians_and_ratios(bundles: tuple[Path, Path]) -> None:
    script = ROOT / "scripts" / "measure_adapters.py"
    sizes = ["--rounds", "2", "--prompt", "40", "--new", "8", "--threads", "1"]
    command = [sys.executable, script, *bundles, "--adapter", "b", *sizes]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert (found["adapter"], found["rank"], found["rounds"], found["prompt_tokens"]) == ("b", 8, 2, 40)
    for rate, ratio in found["ratios"]["active_over_plain"].items():
        assert ratio == pytest.approx(found["medians"]["active"][rate] / found["medians"]["plain"][rate])
        assert ratio > 0
    assert {side: len(rows) for side, rows in found["rows"].items()} == {"plain": 2, "separate": 2, "active": 2}
    wrong = subprocess.run([*command[:2], bundles[0], bundles[0]], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1
    assert "has no adapters" in wrong.stderr
