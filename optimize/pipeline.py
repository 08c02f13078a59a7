"""The straight path of a model: fetch -> fp32 parent -> quantized ONNX -> gate -> bundle. Read top to bottom.

A recipe that tunes has two stages more behind the parent: adapter -> merged, which then is what is built and compared.
One with adapters that stay separate has one more behind the build: adapters, which is the build with inputs for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge import bundle
from optimize import (
    child,
    embedder,
    evaluate,
    finetune,
    manifest,
    package,
    quantize,
    reranker,
    scores,
    targets,
    trial,
    tuned_gate,
)
from optimize.build import Build, Report
from optimize.dataset import splits
from optimize.recipe import Recipe
from optimize.stages import Stage, code, tools


@dataclass(frozen=True)
class StageReport:
    name: str
    key: str  # the same for the same work; of the bundle: the manifest's sha256
    cached: bool
    seconds: float  # of this run
    built_sec: float  # when it was built


@dataclass(frozen=True)
class BuildResult:
    path: Path
    digest: str  # sha256 of the manifest
    gate: dict[str, Any]  # what was measured, with the thresholds
    stages: tuple[StageReport, ...]


def run(recipe: Recipe, out: Path, report: Report, watch: finetune.Watch | None = None) -> BuildResult:
    """Build the bundle that `recipe` describes at `out`; what is built already is used again.

    :param watch: called after each step of a training, where the recipe has one.
    :raises SourceError: the base cannot be fetched, or is not what the recipe pins.
    :raises BuildError: a stage failed, or `out` holds something else.
    :raises GateError: the build lost too much; nothing is written to `out`.
    """
    child.quiet()
    package.check_place(out)  # before the work, not after it
    target = targets.get(recipe.target)
    target.check(recipe)
    build = Build(recipe, report)
    quantize.check_fits(build.parent().path, recipe.model)
    base = build.base()
    tuned = build.tuned(base, watch)
    model = build.adapted(tuned, build.model(tuned, recipe.model))
    result = build.gate(tuned, model)
    judged = evaluate.judge(result, recipe.gate)
    embedder_stage = build.embedder()
    gate = {"model": judged, "embedder": embedder.gate_figures(embedder_stage.path)}
    if reranker_stage := build.reranker():
        gate["reranker"] = reranker.gate_figures(reranker_stage.path)
    memory = build.memory(model, embedder_stage)
    if figures := _tuned_figures(build, base, model, embedder_stage, memory, result):
        gate["tuned"] = figures
    made = target.make(build, tuned, model)
    gate |= {form.entry.path: form.gate for form in made}

    report("bundle", "running")
    started = time.monotonic()
    digest, written = manifest.pack(build, model, embedder_stage, memory, gate, out, made, reranker_stage)
    report("bundle", "built" if written else "cached")
    stages = [
        StageReport(stage.name, stage.key, stage.cached, round(stage.seconds, 2), round(stage.built_sec, 2))
        for stage in build.stages
    ]
    took = round(time.monotonic() - started, 2)
    stages.append(StageReport("bundle", digest, not written, took, took))
    return BuildResult(path=out, digest=digest, gate=gate, stages=tuple(stages))


def _tuned_figures(
    build: Build,
    base: Stage,
    model: Stage,
    embedder_stage: Stage,
    memory: bundle.Memory,
    result: evaluate.GateResult,
) -> dict[str, Any] | None:
    """What tuning was worth, where the recipe tunes.

    :raises GateError: not enough.
    """
    recipe = build.recipe
    if recipe.tuned_gate is None or not (recipe.finetune or recipe.adapter):
        return None
    before = base if recipe.finetune else build.parent()
    accuracy = evaluate.accuracy(build.reference(before).path)
    held_out = finetune.read_examples(recipe.finetune.data)[1] if recipe.finetune else []
    questions = tuned_gate.chosen(held_out, recipe.tuned_gate.questions)
    if not questions:
        return tuned_gate.judge(tuned_gate.figures(accuracy, result.accuracy), recipe.tuned_gate)
    untuned = Build(replace(recipe, finetune=None, answers="marked" if recipe.adapter else "free"), build.report)
    untuned.prompts = build.prompts
    parent_model = untuned.model(base, recipe.model)
    parent_memory = untuned.memory(parent_model, embedder_stage)
    sides: dict[str, Callable[[Path], object]] = {
        "parent": lambda out: manifest.pack(untuned, parent_model, embedder_stage, parent_memory, {}, out),
        "tuned": lambda out: manifest.pack(build, model, embedder_stage, memory, {}, out),
    }
    reads = {
        "parent": parent_model.digest,
        "tuned": model.digest,
        "embedder": embedder_stage.digest,
        "questions": splits.digest_of(questions),
        "tools": tools("onnxruntime", "onnxruntime-genai"),
        "code": code(tuned_gate, trial, scores),
    }
    stage = build.stage("held-out", reads, lambda out: tuned_gate.ask(sides, questions, out))
    asked = tuned_gate.read(stage.path, "parent"), tuned_gate.read(stage.path, "tuned")
    private = parent_memory.model_private_bytes, memory.model_private_bytes
    return tuned_gate.judge(tuned_gate.figures(accuracy, result.accuracy, asked, private), recipe.tuned_gate)
