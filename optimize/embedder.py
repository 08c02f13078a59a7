"""The embedder's build: safetensors -> ONNX -> int8 with integer matrix products, through Olive, and compared.

What the passes do, on all-MiniLM-L6-v2 (private memory with 256 tokens embedded, against the exported fp32 model):
exported and quantized alone 62 MB; attention fused (`OnnxScriptFusion`) and reading its mask itself (`attention`), so
that it is quantized too, and weights beside the graph, where they are mapped from the file: 26 MB.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge import embed, machine
from edge.bundle import EMBEDDER_MODEL, EMBEDDER_TOKENIZER, BaseModel, EmbedderSection, embedder_fingerprint
from edge.embed import OnnxEmbedder
from edge.errors import BuildError
from edge.files import sha256_file, write_atomic
from optimize import attention, embedder_gate, layernorm, olive_runner, sources
from optimize.embedder_gate import EmbedderGate
from optimize.sources import Source
from optimize.stages import digest_of

TOOLS = ("olive-ai", "onnxruntime", "onnx", "onnx-ir", "onnxscript", "torch", "transformers", "tokenizers")
CODE = (attention, embed, embedder_gate, layernorm)
"""Modules besides this one that decide what is built."""

DESCRIPTION = "embedder.json"
_WEIGHTS_MIN_BYTES = 1024  # smaller tensors stay in the graph's file


@dataclass(frozen=True)
class EmbedderRecipe:
    """An embedding model and how it is stored and used."""

    id: str  # as its authors call it
    licence: str  # SPDX identifier
    source: Source  # a Hugging Face folder: config.json, model.safetensors, tokenizer.json
    max_tokens: int  # that it was trained to read, special tokens included
    pooling: Literal["mean", "cls"] = "mean"
    query_prefix: str = ""  # what the model wants before a question, e.g. "query: "
    document_prefix: str = ""
    precision: Literal["int8", "fp32"] = "int8"
    reduce_range: bool = True  # 7-bit weights: on a CPU without VNNI, sums of 8-bit products overflow
    gate: EmbedderGate = field(default_factory=EmbedderGate)

    def __post_init__(self) -> None:
        if self.max_tokens < 32:
            raise ValueError("max_tokens must be at least 32")
        if self.source.gguf is not None:
            raise ValueError("source: an embedder is built from safetensors (wheel, folder or hub), not from GGUF")


def build_embedder(recipe: EmbedderRecipe, out: Path) -> dict[str, Any]:
    """Write model.onnx, model.onnx.data, tokenizer.json and embedder.json into `out`; return the gate's figures.

    :param out: an existing, empty folder.
    :raises SourceError: the model cannot be fetched.
    :raises BuildError: a pass failed; names the log.
    :raises GateError: the build is too far from the original.
    """
    origin = sources.fetch(recipe.source)
    for name in ("config.json", "tokenizer.json"):
        if not (origin / name).is_file():
            raise BuildError(f"the source of {recipe.id} has no {name}: name it in the recipe (embedder.source)")
    scratch = out / ".scratch"
    log = f"embedder-{digest_of(recipe)[:12]}"
    try:
        graph = _export(recipe, origin, _made(scratch / "export"), log)
        if recipe.precision == "int8":
            graph = _quantize(recipe, graph, _made(scratch / "quantize"), log)
        _install(graph, out)
        shutil.copyfile(origin / "tokenizer.json", out / EMBEDDER_TOKENIZER)
        description = {"dim": _dim(out / EMBEDDER_MODEL), "max_tokens": recipe.max_tokens, "pooling": recipe.pooling}
        write_atomic(out / DESCRIPTION, json.dumps(description))
        job = embedder_gate.Reference(origin, recipe.pooling, recipe.max_tokens)
        with OnnxEmbedder(out, section(recipe, out, "embedder"), threads=2) as built:
            texts = embedder_gate.shipped_texts(lambda text: built.count_tokens(text) <= built.max_tokens)
            figures = embedder_gate.compare(built, recipe, job, texts, _made(scratch / "gate"), log)
        judged = embedder_gate.judge(figures, recipe.gate)
        write_atomic(out / DESCRIPTION, json.dumps({**description, "gate": judged}, indent=2))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return judged


def section(recipe: EmbedderRecipe, folder: Path, path: str) -> EmbedderSection:
    """The manifest's section for what `build_embedder` wrote into `folder` and will stand at `path` in the bundle."""
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    unsigned = EmbedderSection(
        path=path,
        base=BaseModel(
            id=recipe.id,
            source=sources.describe(recipe.source),
            sha256=sources.pinned(recipe.source),
            licence=recipe.licence,
        ),
        dim=description["dim"],
        pooling=recipe.pooling,
        max_tokens=recipe.max_tokens,
        query_prefix=recipe.query_prefix,
        document_prefix=recipe.document_prefix,
        fingerprint="",
    )
    hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    return EmbedderSection(**{**vars(unsigned), "fingerprint": embedder_fingerprint(hashes, unsigned)})


def gate_figures(folder: Path) -> dict[str, Any]:
    """What the gate measured when the embedder in `folder` was built, with the thresholds."""
    figures: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["gate"]
    return figures


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _export(recipe: EmbedderRecipe, origin: Path, scratch: Path, log: str) -> Path:
    """PyTorch -> ONNX with fused attention, layer norms and GELUs, in fp32."""
    exported = olive_runner.run_workflow(
        {
            "type": "HfModel",
            "model_path": str(origin),
            "task": "feature-extraction",
            "load_kwargs": {"attn_implementation": "eager"},  # the other one exports guards against NaN that cost time
        },
        # without io_config: with one, the exporter writes fixed shapes
        {"convert": {"type": "OnnxConversion", "use_dynamo_exporter": True}, "fuse": {"type": "OnnxScriptFusion"}},
        scratch,
        f"{log}-export",
    )
    simplified = scratch / "simplified.onnx"
    try:
        attention.simplify(_graph_file(exported), simplified)
    except ValueError as error:
        raise BuildError(f"{recipe.id} cannot be used as an embedder: {error}") from error
    return simplified


def _quantize(recipe: EmbedderRecipe, graph: Path, scratch: Path, log: str) -> Path:
    """Weights to int8 with a scale per column, activations quantized as they come: integer matrix products."""
    options = {
        "type": "OnnxDynamicQuantization",
        "precision": "int8",
        "per_channel": True,
        "reduce_range": recipe.reduce_range,
    }
    model = {"type": "ONNXModel", "model_path": str(graph)}
    return _graph_file(olive_runner.run_workflow(model, {"quantize": options}, scratch, f"{log}-quantize"))


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


def _dim(graph: Path) -> int:
    import onnx

    outputs = onnx.load(graph, load_external_data=False).graph.output
    return int(outputs[0].type.tensor_type.shape.dim[-1].dim_value)


def private_bytes(folder: Path) -> int:
    """Private bytes (RssAnon) that this process gains by loading the embedder and embedding one text of full length."""
    import onnxruntime  # noqa: F401 - what the libraries themselves take is not counted
    import tokenizers  # noqa: F401

    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    unknown = BaseModel("", "", "", "")
    shape = {key: description[key] for key in ("dim", "max_tokens", "pooling")}
    loaded = EmbedderSection("", unknown, query_prefix="", document_prefix="", fingerprint="", **shape)
    before = machine.private_bytes()
    with OnnxEmbedder(folder, loaded, threads=2) as embedder:
        text = "the " * embedder.max_tokens
        while embedder.count_tokens(text) > embedder.max_tokens:
            text = text[: -len("the ")]
        embedder.embed_documents([text])
        return machine.private_bytes() - before
