"""The stages of a build: what each of them reads, and what makes it. `optimize.pipeline` puts them in their order.

Every stage reads one parent and writes a new folder under `<cache>/stages`, found again by the hash of what it read. So
a second run does nothing, a changed threshold rebuilds nothing, and a killed build goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edge import bundle, machine
from edge.config import to_plain
from edge.errors import ConfigError
from edge.files import sha256_file, write_atomic
from optimize import (
    adapters,
    architectures,
    dialogue,
    disk,
    embedder,
    embedder_gate,
    encoder,
    evaluate,
    export,
    finetune,
    gptq,
    head,
    measure,
    merge,
    olive_runner,
    projection,
    quantize,
    reranker,
    sources,
)
from optimize.recipe import ModelRecipe, Recipe
from optimize.stages import Stage, code, digest_of, hash_folder, run_stage, tools

Report = Callable[[str, str], None]
"""Called as (stage, "running" | "built" | "cached") when a stage begins and ends."""


class Build:
    """One run of a recipe: its stages, in the order in which they ran."""

    def __init__(self, recipe: Recipe, report: Report) -> None:
        self.recipe = recipe
        self.report = report
        self.prompts = recipe.finetune.data if recipe.finetune else None  # what gptq is calibrated on
        self.stages: list[Stage] = []

    def stage(self, name: str, reads: dict[str, Any], work: Callable[[Path], object], needed_bytes: int = 0) -> Stage:
        self.report(name, "running")
        stage = run_stage(name, reads, work, needed_bytes)
        self.stages.append(stage)
        self.report(name, "cached" if stage.cached else "built")
        return stage

    def parent(self) -> Stage:
        """The base model as a Hugging Face folder in fp32."""
        source = self.recipe.base.source
        reads = {
            "source": sources.digest(source),
            "tools": tools(*export.TOOLS),
            "code": code(export, architectures, dialogue, sources),
        }

        def work(out: Path) -> None:
            fetched = sources.fetch(source)
            disk.require(out, export.needed_bytes(fetched))
            export.export_parent(fetched, out, _log_name("parent", reads))

        return self.stage("parent", reads, work)

    def base(self) -> Stage:
        """What is tuned: the parent, with the ready adapter merged where the recipe names one."""
        parent = self.parent()
        if not self.recipe.adapter:
            return parent
        folder = merge.check_source(self.recipe.adapter)
        return self._merged(parent, folder, hash_folder(folder))

    def tuned(self, base: Stage, watch: finetune.Watch | None = None) -> Stage:
        """The base with the adapter merged that the recipe trains; the base itself where it trains none.

        :param watch: called after each step of the training.
        """
        if not self.recipe.finetune:
            return base
        made = self.adapter(base, watch)
        return self._merged(base, made.path, made.files)

    def _merged(self, parent: Stage, folder: Path, sha256: dict[str, str]) -> Stage:
        recipe = self.recipe
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
        if recipe.algorithm == "gptq":
            return self.model(self._rounded(parent, recipe), gptq.builder_recipe(recipe))
        scales: Stage | None = None
        if recipe.kv_cache == "int8":
            scales = self._kv_scales(parent, recipe)
        reads = {
            "parent": parent.digest,
            "recipe": to_plain(recipe),
            "kv_scales": scales.digest if scales else None,
            "tools": tools(*olive_runner.TOOLS),
            "code": code(quantize, architectures, dialogue, head, olive_runner),
        }
        scale_file = scales.path / "scales.json" if scales else None

        def work(out: Path) -> None:
            quantize.build_model(parent.path, recipe, out, _log_name("model", reads), scale_file)

        return self.stage("model", reads, work, needed_bytes=4 * _folder_bytes(parent))

    def _rounded(self, parent: Stage, recipe: ModelRecipe) -> Stage:
        """The parent with int4 weights by GPTQ."""
        if self.prompts is None:
            raise ConfigError("model.algorithm: gptq is calibrated on the training prompts: it needs finetune.data")
        samples = finetune.read_samples(self.prompts)[0]
        reads = {
            "parent": parent.digest,
            "recipe": {"block_size": recipe.block_size, "symmetric": recipe.symmetric, "mixed": recipe.mixed_precision},
            "samples": digest_of([to_plain(sample) for sample in samples]),
            "tools": tools(*gptq.TOOLS),
            "code": code(gptq, olive_runner) + sha256_file(gptq.SCRIPT),
        }

        def work(out: Path) -> None:
            gptq.round_weights(parent.path, recipe, samples, out, _log_name("gptq", reads))

        return self.stage("gptq", reads, work, needed_bytes=2 * _folder_bytes(parent))

    def _kv_scales(self, parent: Stage, recipe: ModelRecipe) -> Stage:
        baseline = self.model(parent, quantize.calibration_recipe(recipe))
        reads = {"model": baseline.digest, "tools": tools(*olive_runner.TOOLS), "code": code(quantize)}

        def work(out: Path) -> None:
            quantize.calibrate_kv_cache(baseline.path, parent.path, out, _log_name("kv-scales", reads))

        return self.stage("kv-scales", reads, work)

    def adapted(self, parent: Stage, model: Stage) -> Stage:
        """The build with inputs for the recipe's adapters, and those beside it; the build itself where it has none."""
        recipe, calibrated = self.recipe.model, None
        if not self.recipe.adapters:
            return model
        if recipe.kv_cache == "int8":
            weights = parent
            if recipe.algorithm == "gptq":
                weights, recipe = self._rounded(parent, recipe), gptq.builder_recipe(recipe)
            baseline = self.model(weights, quantize.calibration_recipe(recipe))
            calibrated = baseline, self._kv_scales(weights, recipe)
        return adapters.stage(self, parent, model, calibrated)

    def reference(self, parent: Stage) -> Stage:
        """What the parent makes of the gate's text."""
        text = evaluate.gate_text()
        return self.stage(
            "reference",
            {"parent": parent.digest, **self._gate_reads()},
            lambda out: evaluate.read_parent(parent.path, self.recipe.gate, text, out),
            needed_bytes=_folder_bytes(parent),
        )

    def gate(self, parent: Stage, model: Stage) -> evaluate.GateResult:
        """How far the build is from its parent. Thresholds are not read here, so changing them rebuilds nothing."""
        reference = self.reference(parent)
        result = self.stage(
            "gate",
            {"model": model.digest, "reference": reference.digest, **self._gate_reads()},
            lambda out: evaluate.write_result(evaluate.compare(model.path, reference.path), out),
        )
        return evaluate.read_result(result.path)

    def _gate_reads(self) -> dict[str, Any]:
        return {
            "text": hashlib.sha256(evaluate.gate_text().encode()).hexdigest(),
            "shape": evaluate.shape_of(self.recipe.gate),
            "tools": tools(*evaluate.TOOLS),
            "code": code(evaluate, projection, head),
        }

    def embedder(self) -> Stage:
        """The embedding model, exported, quantized, and compared with its original."""
        recipe = self.recipe.embedder
        reads = {
            "recipe": to_plain(recipe),
            "source": sources.digest(recipe.source),
            "tools": tools(*embedder.TOOLS) | encoder.tools(recipe.tool),
            "texts": hash_folder(embedder_gate.DATA),
            "code": code(embedder, *embedder.CODE, sources),
        }
        return self.stage("embedder", reads, partial(embedder.build_embedder, recipe), needed_bytes=2**30)

    def reranker(self) -> Stage | None:
        """The cross-encoder, exported, quantized, and compared with its original; None where the recipe names none."""
        recipe = self.recipe.reranker
        if recipe is None:
            return None
        reads = {
            "recipe": to_plain(recipe),
            "source": sources.digest(recipe.source),
            "tools": tools(*reranker.TOOLS) | encoder.tools(recipe.tool),
            "texts": hash_folder(embedder_gate.DATA),
            "code": code(reranker, *reranker.CODE, embedder_gate, sources),
        }
        return self.stage("reranker", reads, partial(reranker.build_reranker, recipe), needed_bytes=2**30)

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


def _folder_bytes(stage: Stage) -> int:
    return sum((stage.path / name).stat().st_size for name in stage.files)


def _log_name(stage: str, reads: dict[str, Any]) -> str:
    return f"{stage}-{digest_of(reads)[:12]}"
