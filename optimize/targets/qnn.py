"""Qualcomm's NPU (Hexagon), by QNN: graphs of fixed shapes in integers, compiled for each chip.

npu         fp32 parent -> embeddings, context, iterator, LM head as QDQ graphs; they run on the CPU as they are
npu-gate    those graphs on the CPU against the CPU form of the model
npu-60      compiled for one chip: an EPContext node and a binary in place of what the NPU takes
npu-60-gate the compiled graphs in the simulator of the NPU, where the recipe asks for it: minutes
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle_targets import TargetEntry
from edge.config import to_plain
from edge.errors import BuildError, ConfigError
from edge.files import sha256_file
from edge.machine import cores
from optimize import environments, evaluate, head, projection
from optimize.stages import Stage, code, digest_of
from optimize.targets import npu_gate, qnn_build, qnn_rows, static_pipeline
from optimize.targets.base import Made
from optimize.targets.qnn_build import (
    ASSIGNED,
    BESIDE,
    COMPILED,
    ENVIRONMENT,
    SHAPING,
    build_graphs,
    compile_graphs,
    options,
    simulate,
)  # fmt: skip
from optimize.targets.qnn_recipe import QnnRecipe

if TYPE_CHECKING:
    from optimize.build import Build
    from optimize.recipe import Recipe

PROVIDER, PACKAGE = "QNNExecutionProvider", "onnxruntime-qnn"
_RUNNER = Path(__file__).with_name("qnn_runner.py")
_DATA = Path(__file__).with_name("qnn_data.py")


class Qnn:
    """See `optimize.targets.base.Target`."""

    name = "qnn"

    def check(self, recipe: Recipe) -> None:
        wanted = _section(recipe)
        if wanted.context_tokens > recipe.model.context_tokens:
            raise ConfigError(
                f"qnn.context_tokens is {wanted.context_tokens}, more than model.context_tokens: "
                f"{recipe.model.context_tokens}, which the CPU takes over with"
            )
        if recipe.adapters:
            raise ConfigError("target qnn takes no adapters beside the model: merge one (adapter:), or build for cpu")
        environments.interpreter(ENVIRONMENT)

    def tools(self) -> dict[str, str]:
        return {f"{PACKAGE} ({ENVIRONMENT}.lock)": pinned(PACKAGE)}

    def make(self, build: Build, parent: Stage, model: Stage) -> tuple[Made, ...]:
        recipe = _section(build.recipe)
        graphs = self._graphs(build, parent, model, recipe)
        reference = build.reference(parent)
        gate = self._gate(build, graphs, model, reference, recipe)
        if not recipe.soc_models:
            return (Made(graphs, entry(graphs, recipe, None), gate),)
        made = []
        for soc in recipe.soc_models:
            compiled = self._compiled(build, graphs, recipe, soc)
            figures = {**gate, "assigned": _judge_assigned(compiled, recipe, soc)}
            if recipe.gate.compiled_tokens:
                figures["simulated"] = self._simulated(build, compiled, model, reference, recipe, soc)
            made.append(Made(compiled, entry(compiled, recipe, soc), figures, frozenset({ASSIGNED})))
        return tuple(made)

    def _graphs(self, build: Build, parent: Stage, model: Stage, recipe: QnnRecipe) -> Stage:
        reads = {
            "parent": parent.digest,
            "tokenizer": {name: model.files[name] for name in BESIDE},
            "config": model.files["genai_config.json"],
            "recipe": {key: value for key, value in to_plain(recipe).items() if key in SHAPING},
            "environment": environments.digest(ENVIRONMENT),
            "code": _code() + code(qnn_rows),
        }

        def work(out: Path) -> None:
            build_graphs(parent.path, model.path, recipe, out, f"npu-{digest_of(reads)[:12]}")

        return build.stage("npu", reads, work, needed_bytes=6 * (parent.path / "model.safetensors").stat().st_size)

    def _gate(self, build: Build, graphs: Stage, model: Stage, reference: Stage, recipe: QnnRecipe) -> dict[str, Any]:
        reads = {
            "npu": graphs.digest,
            "model": model.digest,
            "reference": reference.digest,
            "tokens": recipe.gate.tokens,
            "code": _gate_code(),
        }

        def work(out: Path) -> None:
            tokens = npu_gate.windows(reference.path, recipe.gate.tokens, recipe.chunk_tokens)
            read = static_pipeline.reader(graphs.path, threads=cores())
            npu_gate.write(npu_gate.compare(model.path, reference.path, tokens, read), out)

        result = npu_gate.read(build.stage("npu-gate", reads, work).path)
        return npu_gate.judge("the form for the NPU (its graphs, on the CPU)", result, recipe.gate, recipe.gate.parent)

    def _compiled(self, build: Build, graphs: Stage, recipe: QnnRecipe, soc: str) -> Stage:
        reads = {
            "npu": graphs.digest,
            "soc": soc,
            "options": recipe.provider_options,
            "environment": environments.digest(ENVIRONMENT),
            "code": _code(),
        }

        def work(out: Path) -> None:
            compile_graphs(graphs.path, recipe, soc, out, f"npu-{soc}-{digest_of(reads)[:12]}")

        size = sum((graphs.path / name).stat().st_size for name in graphs.files)
        return build.stage(f"npu-{soc}", reads, work, needed_bytes=3 * size)

    def _simulated(
        self, build: Build, compiled: Stage, model: Stage, reference: Stage, recipe: QnnRecipe, soc: str
    ) -> dict[str, Any]:
        reads = {
            "npu": compiled.digest,
            "model": model.digest,
            "reference": reference.digest,
            "tokens": recipe.gate.compiled_tokens,
            "environment": environments.digest(ENVIRONMENT),
            "code": _gate_code(),
        }

        def work(out: Path) -> None:
            import numpy as np

            tokens = npu_gate.windows(reference.path, recipe.gate.compiled_tokens, recipe.chunk_tokens)
            scratch, log = out / ".scratch", f"npu-{soc}-gate-{digest_of(reads)[:12]}"
            logits = simulate(compiled.path, tokens, options(recipe, soc), scratch, log)
            rows = {window.tobytes(): np.array(found) for window, found in zip(tokens, logits, strict=True)}
            result = npu_gate.compare(model.path, reference.path, tokens, lambda window: rows[window.tobytes()])
            npu_gate.write(result, out)
            shutil.rmtree(scratch)

        result = npu_gate.read(build.stage(f"npu-{soc}-gate", reads, work, needed_bytes=2**30).path)
        return npu_gate.judge(f"the form for chip {soc} (in the simulator)", result, recipe.gate, recipe.gate.parent)


TARGET = Qnn()


def entry(made: Stage, recipe: QnnRecipe, soc: str | None) -> TargetEntry:
    """What the manifest says of a finished folder; without a chip, of graphs for any CPU."""
    weights = sum((made.path / name).stat().st_size for name in made.files if ".onnx" in name or name.endswith(".bin"))
    return TargetEntry(
        name="qnn",
        path="npu" if soc is None else f"npu-{soc}",
        provider="CPUExecutionProvider" if soc is None else PROVIDER,
        package="onnxruntime" if soc is None else PACKAGE,
        package_version=pinned("onnxruntime" if soc is None else PACKAGE),
        context_tokens=recipe.context_tokens,
        chunk_tokens=recipe.chunk_tokens,
        min_assigned_share=recipe.min_assigned_share,
        weights_bytes=weights,
        soc_model=soc,
        devices=("CPU",) if soc is None else ("NPU",),
        provider_options={} if soc is None else options(recipe, soc),
        stages=COMPILED,
        quantization={key: value for key, value in to_plain(recipe).items() if key in SHAPING},
    )


def pinned(package: str) -> str:
    """The version of a package in the environment's lock file."""
    for line in environments.lock_file(ENVIRONMENT).read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name.strip() == package:
            return version.strip()
    raise BuildError(f"{environments.lock_file(ENVIRONMENT)} does not pin {package}")


def _judge_assigned(compiled: Stage, recipe: QnnRecipe, soc: str) -> dict[str, float]:
    """Share of the nodes that the NPU took, of each compiled graph.

    :raises BuildError: less than the recipe asks for; names the operators that it left.
    """
    shares = {}
    for name, found in json.loads((compiled.path / ASSIGNED).read_text(encoding="utf-8")).items():
        taken, left = sum(found["taken"].values()), found["left"]
        total = taken + sum(left.values())
        shares[name] = round(taken / total, 4) if total else 0.0
        if shares[name] < recipe.min_assigned_share:
            named = ", ".join(f"{kind} ({count / total:.1%})" for kind, count in sorted(left.items()))
            raise BuildError(
                f"the NPU {soc} takes {shares[name]:.1%} of the nodes of {name}, and qnn.min_assigned_share is "
                f"{recipe.min_assigned_share:.0%}. It leaves to the CPU: {named}"
            )
    return shares


def _section(recipe: Recipe) -> QnnRecipe:
    if recipe.qnn is None:
        raise ConfigError("target qnn needs a section qnn: configs/optimize/npu-qnn.yaml has one")
    return recipe.qnn


def _code() -> str:
    return code(static_pipeline, qnn_build) + "".join(sha256_file(path) for path in (_RUNNER, _DATA))


def _gate_code() -> str:
    return code(npu_gate, static_pipeline, evaluate, projection, head)
