"""Encoders, the embedder's and the reranker's: safetensors -> ONNX -> int8 with integer matrix products.

Two tools do it, by the recipe's `tool`: Olive, in this environment, and Optimum, in one of its own (its release needs
an older transformers). Both are followed by the same two steps on the graph: attention that reads its mask itself, and
weights in a file beside the graph, where they are mapped.

What the passes do, on all-MiniLM-L6-v2 (private memory with 256 tokens embedded, against the exported fp32 model):
exported and quantized alone 62 MB; attention fused (`OnnxScriptFusion`) and reading its mask itself (`attention`), so
that it is quantized too, and weights beside the graph, where they are mapped from the file: 26 MB.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.bundle import EMBEDDER_MODEL, EMBEDDER_TOKENIZER
from edge.errors import BuildError
from edge.files import write_atomic
from optimize import attention, child, environments, layernorm, olive_runner, optimum_runner
from optimize.sources import Source

Tool = Literal["olive", "optimum"]
Precision = Literal["int8", "fp32"]

TOOLS = ("olive-ai", "onnxruntime", "onnx", "onnx-ir", "onnxscript", "torch", "transformers", "tokenizers")
CODE = (attention, layernorm, olive_runner, optimum_runner)
"""Modules besides this one that decide what is built."""
ENVIRONMENT = "optimum"

_WEIGHTS_MIN_BYTES = 1024  # smaller tensors stay in the graph's file


@dataclass(frozen=True)
class EncoderRecipe:
    """What recipes of embedders and of rerankers have in common."""

    id: str  # as its authors call it
    licence: str  # SPDX identifier
    source: Source  # a Hugging Face folder: config.json, model.safetensors, tokenizer.json
    max_tokens: int  # that it was trained to read, special tokens and, of a reranker, question and passage included
    query_prefix: str = ""  # what the model wants before a question, e.g. "query: "
    document_prefix: str = ""
    tool: Tool = "olive"  # what exports and quantizes; docs/decisions.md says why
    precision: Precision = "int8"
    reduce_range: bool = True  # 7-bit weights: on a CPU without VNNI, sums of 8-bit products overflow

    def __post_init__(self) -> None:
        if self.max_tokens < 32:
            raise ValueError("max_tokens must be at least 32")
        if self.source.gguf is not None:
            raise ValueError("source: it is built from safetensors (wheel, folder or hub), not from GGUF")


@dataclass(frozen=True)
class Encoder:
    """What is built, and how."""

    id: str  # as its authors call it
    task: Literal["feature-extraction", "text-classification"]
    output: Literal["last_hidden_state", "logits"]  # the only one that the graph keeps
    tool: Tool
    precision: Precision
    reduce_range: bool


def check_origin(origin: Path, id: str, section: str, max_tokens: int) -> dict[str, Any]:
    """The configuration of a fetched model, once its files are there and it has places for `max_tokens`.

    :raises BuildError: names what is missing, or what the recipe says otherwise.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (origin / name).is_file():
            raise BuildError(f"the source of {id} has no {name}: name it in the recipe ({section}.source)")
    try:
        config = json.loads((origin / "config.json").read_text(encoding="utf-8"))
        places = int(config.get("max_position_embeddings") or max_tokens)
    except (ValueError, AttributeError, TypeError) as error:
        raise BuildError(f"the source of {id}: config.json is no configuration of a model: {error}") from None
    if max_tokens > places:
        raise BuildError(f"{id} has places for {places} tokens, and {section}.max_tokens is {max_tokens}: lower it")
    return dict(config)


def tools(tool: Tool) -> dict[str, str]:
    """What decides the result beside the versions in this environment: of Optimum's own, the lock file's sha256.

    :raises BuildError: its environment has not been made; says how.
    """
    if tool == "olive":
        return {}
    environments.interpreter(ENVIRONMENT)
    return {"optimum.lock": environments.digest(ENVIRONMENT)}


def build(encoder: Encoder, origin: Path, out: Path, scratch: Path, log: str) -> None:
    """Write model.onnx, model.onnx.data and tokenizer.json into `out`.

    :param scratch: a folder that does not exist yet; it may be removed afterwards.
    :raises BuildError: a pass failed; names the log.
    """
    if encoder.tool == "olive":
        graph = _olive(encoder, origin, scratch, log)
    else:
        graph = _optimum(encoder, origin, scratch, log)
    _install(graph, out)
    shutil.copyfile(origin / "tokenizer.json", out / EMBEDDER_TOKENIZER)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A folder below `out` for what comes in between; it is gone afterwards."""
    folder = out / ".scratch"
    try:
        yield made(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def made(folder: Path) -> Path:
    """The folder, new."""
    folder.mkdir(parents=True)
    return folder


def _olive(encoder: Encoder, origin: Path, scratch: Path, log: str) -> Path:
    """PyTorch -> ONNX with fused attention, layer norms and GELUs, in fp32; then its weights to int8."""
    export = made(scratch / "export")
    exported = olive_runner.run_workflow(
        {
            "type": "HfModel",
            "model_path": str(origin),
            "task": encoder.task,
            "load_kwargs": {"attn_implementation": "eager"},  # the other one exports guards against NaN that cost time
        },
        # without io_config: with one, the exporter writes fixed shapes
        {"convert": {"type": "OnnxConversion", "use_dynamo_exporter": True}, "fuse": {"type": "OnnxScriptFusion"}},
        export,
        f"{log}-export",
    )
    graph = _simplified(encoder, _graph_file(exported), export)
    if encoder.precision == "fp32":
        return graph
    # A scale per column; activations are quantized as they come: integer matrix products.
    options = {
        "type": "OnnxDynamicQuantization",
        "precision": "int8",
        "per_channel": True,
        "reduce_range": encoder.reduce_range,
    }
    model, folder = {"type": "ONNXModel", "model_path": str(graph)}, made(scratch / "quantize")
    return _graph_file(olive_runner.run_workflow(model, {"quantize": options}, folder, f"{log}-quantize"))


def _optimum(encoder: Encoder, origin: Path, scratch: Path, log: str) -> Path:
    """The same by Optimum's exporter, optimizer and quantizer, in two runs of its own interpreter."""
    python = environments.interpreter(ENVIRONMENT)
    export = made(scratch / "export")

    def run(step: str, source: Path, out: Path) -> None:
        job = scratch / f"{step}.json"
        told = {
            "step": step, "source": str(source), "out": str(out), "task": encoder.task,
            "reduce_range": encoder.reduce_range,
        }  # fmt: skip
        write_atomic(job, json.dumps(told))
        child.run("optimize.optimum_runner", [str(job)], f"Optimum ({step})", f"{log}-{step}", scratch, python=python)

    run("export", origin, export)
    graph = _simplified(encoder, export / "model.onnx", export)
    if encoder.precision == "fp32":
        return graph
    quantized = scratch / "quantize"
    run("quantize", graph, quantized)
    return quantized / "model.onnx"


def _simplified(encoder: Encoder, graph: Path, folder: Path) -> Path:
    simplified = folder / "simplified.onnx"
    try:
        attention.simplify(graph, simplified, encoder.output)
    except ValueError as error:
        raise BuildError(f"{encoder.id} cannot be used here: {error}") from error
    return simplified


def _graph_file(path: Path) -> Path:
    return path / "model.onnx" if path.is_dir() else path


def _install(graph: Path, out: Path) -> None:
    """Graph and weights in two files: weights in a file of their own are mapped, not copied, when they are loaded."""
    import onnx

    model = onnx.load(graph)
    layernorm.decompose(model)
    onnx.save_model(
        model,
        out / EMBEDDER_MODEL,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{EMBEDDER_MODEL}.data",
        size_threshold=_WEIGHTS_MIN_BYTES,
    )
    for name in (EMBEDDER_MODEL, f"{EMBEDDER_MODEL}.data"):
        (out / name).chmod(0o644)
