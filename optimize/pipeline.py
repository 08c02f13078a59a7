"""The straight path of a model: fetch -> fp32 parent -> quantized ONNX -> gate -> bundle. Read top to bottom.

A recipe that tunes has two stages more behind the parent: adapter -> merged, which then is what is built and compared.

Every stage reads one parent and writes a new folder under `<cache>/stages`, found again by the hash of what it read. So
a second run does nothing, a changed threshold rebuilds nothing, and a killed build goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge import bundle, machine
from edge.config import to_plain
from edge.errors import ConfigError
from edge.files import write_atomic
from optimize import (
    child,
    disk,
    embedder,
    embedder_gate,
    evaluate,
    export,
    finetune,
    head,
    measure,
    merge,
    olive_runner,
    package,
    quantize,
    sources,
)
from optimize.recipe import ModelRecipe, Recipe
from optimize.stages import Stage, code, digest_of, hash_folder, run_stage, tools

Report = Callable[[str, str], None]
"""Called as (stage, "running" | "built" | "cached") when a stage begins and ends."""


@dataclass(frozen=True)
class StageReport:
    name: str
    cached: bool
    seconds: float


@dataclass(frozen=True)
class BuildResult:
    path: Path
    digest: str  # sha256 of the manifest
    gate: dict[str, Any]  # what was measured, with the thresholds
    stages: tuple[StageReport, ...]


class Build:
    """One run of a recipe: its stages, in the order in which they ran."""

    def __init__(self, recipe: Recipe, report: Report) -> None:
        self.recipe = recipe
        self.report = report
        self.stages: list[Stage] = []

    def stage(self, name: str, reads: dict[str, Any], work: Callable[[Path], None], needed_bytes: int = 0) -> Stage:
        self.report(name, "running")
        stage = run_stage(name, reads, work, needed_bytes)
        self.stages.append(stage)
        self.report(name, "cached" if stage.cached else "built")
        return stage

    def parent(self) -> Stage:
        """The base model as a Hugging Face folder in fp32."""
        source = self.recipe.base.source
        reads = {"source": sources.digest(source), "tools": tools(*export.TOOLS), "code": code(export, sources)}

        def work(out: Path) -> None:
            fetched = sources.fetch(source)
            disk.require(out, export.needed_bytes(fetched))
            export.export_parent(fetched, out, _log_name("parent", reads))

        return self.stage("parent", reads, work)

    def tuned(self, parent: Stage, watch: finetune.Watch | None = None) -> Stage:
        """The parent with the recipe's adapter merged: trained here, or ready; the parent itself where there is none.

        :param watch: called after each step of the training.
        """
        recipe = self.recipe
        if recipe.finetune:
            made = self.adapter(parent, watch)
            folder, sha256 = made.path, made.files
        elif recipe.adapter:
            folder = merge.check_source(recipe.adapter)
            sha256 = hash_folder(folder)
        else:
            return parent
        reads = {
            "parent": parent.digest,
            "base": recipe.base.id,
            "adapter": {name: sha256.get(name) for name in merge.READS},
            "tools": tools(*merge.TOOLS),
            "code": code(merge),
        }

        def work(out: Path) -> None:
            merge.merge(parent.path, recipe.base.id, folder, out, _log_name("merged", reads))

        return self.stage("merged", reads, work, needed_bytes=2 * _folder_bytes(parent))

    def adapter(self, parent: Stage, watch: finetune.Watch | None = None) -> Stage:
        """The adapter that the recipe's section `finetune` describes.

        :raises ConfigError: it has none.
        """
        recipe = self.recipe.finetune
        if recipe is None:
            raise ConfigError(f"recipe {self.recipe.name} has no section finetune: say there how to tune, and on what")
        train, held_out = finetune.read_samples(recipe.data)
        return finetune.finetune(parent, self.recipe.base.id, recipe, train, held_out, watch, self.stage)

    def model(self, parent: Stage, recipe: ModelRecipe) -> Stage:
        """The quantized ONNX folder; an int8 KV cache needs the ranges seen by a build with a float32 cache first."""
        scales: Stage | None = None
        if recipe.kv_cache == "int8":
            scales = self._kv_scales(parent, recipe)
        reads = {
            "parent": parent.digest,
            "recipe": to_plain(recipe),
            "kv_scales": scales.digest if scales else None,
            "tools": tools(*olive_runner.TOOLS),
            "code": code(quantize, head, olive_runner),
        }
        scale_file = scales.path / "scales.json" if scales else None

        def work(out: Path) -> None:
            quantize.build_model(parent.path, recipe, out, _log_name("model", reads), scale_file)

        return self.stage("model", reads, work, needed_bytes=4 * _folder_bytes(parent))

    def _kv_scales(self, parent: Stage, recipe: ModelRecipe) -> Stage:
        baseline = self.model(parent, quantize.calibration_recipe(recipe))
        reads = {"model": baseline.digest, "tools": tools(*olive_runner.TOOLS), "code": code(quantize)}

        def work(out: Path) -> None:
            quantize.calibrate_kv_cache(baseline.path, parent.path, out, _log_name("kv-scales", reads))

        return self.stage("kv-scales", reads, work)

    def gate(self, parent: Stage, model: Stage) -> evaluate.GateResult:
        """How far the build is from its parent. Thresholds are not read here, so changing them rebuilds nothing."""
        text = evaluate.gate_text()
        shape = evaluate.shape_of(self.recipe.gate)
        common = {
            "text": hashlib.sha256(text.encode()).hexdigest(),
            "shape": shape,
            "tools": tools(*evaluate.TOOLS),
            "code": code(evaluate, head),
        }
        reference = self.stage(
            "reference",
            {"parent": parent.digest, **common},
            lambda out: evaluate.read_parent(parent.path, self.recipe.gate, text, out),
            needed_bytes=_folder_bytes(parent),
        )
        result = self.stage(
            "gate",
            {"model": model.digest, "reference": reference.digest, **common},
            lambda out: evaluate.write_result(evaluate.compare(model.path, reference.path), out),
        )
        return evaluate.read_result(result.path)

    def embedder(self) -> Stage:
        """The embedding model, exported, quantized, and compared with its original."""
        recipe = self.recipe.embedder
        reads = {
            "recipe": to_plain(recipe),
            "source": sources.digest(recipe.source),
            "tools": tools(*embedder.TOOLS),
            "texts": hash_folder(embedder_gate.DATA),
            "code": code(embedder, *embedder.CODE, olive_runner, sources),
        }
        return self.stage("embedder", reads, partial(embedder.build_embedder, recipe), needed_bytes=2**30)

    def memory(self, model: Stage, embedder_stage: Stage) -> bundle.Memory:
        """Private bytes of both parts, each loaded in a process of its own."""
        reads = {
            "model": model.digest,
            "embedder": embedder_stage.digest,
            "tools": tools("onnxruntime", "onnxruntime-genai"),
            "code": code(measure, embedder, *embedder.CODE, machine),
        }

        def work(out: Path) -> None:
            scratch, log = out / ".scratch", _log_name("memory", reads)
            scratch.mkdir()
            figures = {
                "model": measure.measure("model", model.path, scratch, log),
                "embedder": measure.measure("embedder", embedder_stage.path, scratch, log),
            }
            shutil.rmtree(scratch)
            write_atomic(out / "memory.json", json.dumps(figures))

        measured = json.loads((self.stage("memory", reads, work).path / "memory.json").read_text(encoding="utf-8"))
        weights = [model.path / name for name in (head.GRAPH, head.WEIGHTS)]
        return bundle.Memory(
            weights_bytes=sum(path.stat().st_size for path in weights),
            model_private_bytes=measured["model"],
            embedder_private_bytes=measured["embedder"],
        )


def run(recipe: Recipe, out: Path, report: Report, watch: finetune.Watch | None = None) -> BuildResult:
    """Build the bundle that `recipe` describes at `out`; what is built already is used again.

    :param watch: called after each step of a training, where the recipe has one.
    :raises SourceError: the base cannot be fetched, or is not what the recipe pins.
    :raises BuildError: a stage failed, or `out` holds something else.
    :raises GateError: the build lost too much; nothing is written to `out`.
    """
    child.quiet()
    package.check_place(out)  # before the work, not after it
    build = Build(recipe, report)
    parent = build.parent()
    quantize.check_fits(parent.path, recipe.model)
    parent = build.tuned(parent, watch)
    model = build.model(parent, recipe.model)
    judged = evaluate.judge(build.gate(parent, model), recipe.gate)
    embedder_stage = build.embedder()
    gate = {"model": judged, "embedder": embedder.gate_figures(embedder_stage.path)}
    memory = build.memory(model, embedder_stage)

    report("bundle", "running")
    started = time.monotonic()
    manifest = _manifest(build, model, embedder_stage, memory, gate)
    digest, written = package.write_bundle(manifest, _parts(recipe, model, embedder_stage), out)
    report("bundle", "built" if written else "cached")
    stages = [StageReport(stage.name, stage.cached, round(stage.seconds, 2)) for stage in build.stages]
    stages.append(StageReport("bundle", not written, round(time.monotonic() - started, 2)))
    return BuildResult(path=out, digest=digest, gate=gate, stages=tuple(stages))


def _manifest(
    build: Build, model: Stage, embedder_stage: Stage, memory: bundle.Memory, gate: dict[str, Any]
) -> bundle.Manifest:
    recipe = build.recipe
    licences = sorted({recipe.base.licence, recipe.embedder.licence})
    return bundle.Manifest(
        schema=bundle.SCHEMA,
        name=recipe.name,
        version=recipe.version,
        target=recipe.target,
        licence=" AND ".join(licences),
        recipe=recipe.name,
        recipe_digest=recipe_digest(build),
        tools=tools(*sorted({*export.TOOLS, *olive_runner.TOOLS})),
        model=_model_section(recipe, model.path),
        embedder=embedder.section(recipe.embedder, embedder_stage.path, "embedder"),
        memory=memory,
        gate=gate,
    )


def _model_section(recipe: Recipe, folder: Path) -> bundle.ModelSection:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    decoder, ends = config["decoder"], config["eos_token_id"]
    values = 2 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
    dtype = recipe.model.kv_cache
    shaping = to_plain(recipe.model)
    for key in ("precision", "context_tokens", "kv_cache"):
        del shaping[key]
    return bundle.ModelSection(
        path="model",
        base=bundle.BaseModel(
            id=recipe.base.id,
            source=sources.describe(recipe.base.source),
            sha256=sources.pinned(recipe.base.source),
            licence=recipe.base.licence,
        ),
        precision=recipe.model.precision,
        quantization=shaping,
        context_tokens=recipe.model.context_tokens,
        kv_cache=bundle.KvCache(dtype=dtype, bytes_per_token=values * {"float32": 4, "int8": 1}[dtype]),
        chat_template=f"model/{export.CHAT_TEMPLATE}",
        stop_tokens=tuple(ends) if isinstance(ends, list) else (ends,),
        special_tokens=_special_tokens(folder),
        answers=recipe.answers,
    )


def _special_tokens(folder: Path) -> tuple[str, ...]:
    """The tokens that steer the model, as written in text."""
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return tuple(token["content"] for token in added if token["special"])


def recipe_digest(build: Build) -> str:
    """sha256 over everything that decided the result: the recipe, and what each stage read."""
    recipe = to_plain(build.recipe)
    for section in ("base", "embedder"):
        recipe[section].pop("source")  # may hold a path of this machine; its bytes are in what the stages read
    for section, paths in (("finetune", "data"), ("adapter", "path")):
        if recipe[section]:
            recipe[section].pop(paths)
    return digest_of({"recipe": recipe, "stages": [stage.key for stage in build.stages]})


def _parts(recipe: Recipe, model: Stage, embedder_stage: Stage) -> dict[str, package.Part]:
    parts = {f"model/{name}": package.part_of(model.path / name, sha256) for name, sha256 in model.files.items()}
    for name, sha256 in embedder_stage.files.items():
        parts[f"embedder/{name}"] = package.part_of(embedder_stage.path / name, sha256)
    base, embed = recipe.base, recipe.embedder
    components = [
        ("Language model", base.id, sources.describe(base.source), base.licence),
        ("Embedder", embed.id, sources.describe(embed.source), embed.licence),
    ]
    return {**parts, **package.notices(components)}


def _folder_bytes(stage: Stage) -> int:
    return sum((stage.path / name).stat().st_size for name in stage.files)


def _log_name(stage: str, reads: dict[str, Any]) -> str:
    return f"{stage}-{digest_of(reads)[:12]}"
