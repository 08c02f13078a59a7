"""The embedder's build: safetensors -> ONNX -> int8 (`optimize.encoder`), and compared with its original."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge import embed, machine, onnx_text
from edge.bundle import EMBEDDER_MODEL, BaseModel, EmbedderSection, embedder_fingerprint
from edge.embed import OnnxEmbedder
from edge.errors import BuildError
from edge.files import sha256_file, write_atomic
from optimize import embedder_gate, encoder, sources
from optimize.embedder_gate import EmbedderGate
from optimize.encoder import Encoder, EncoderRecipe
from optimize.stages import digest_of

TOOLS = encoder.TOOLS
CODE = (embed, embedder_gate, encoder, onnx_text, *encoder.CODE)
"""Modules besides this one that decide what is built."""

DESCRIPTION = "embedder.json"
_POOLING = "1_Pooling/config.json"  # of a sentence-transformers folder


@dataclass(frozen=True)
class EmbedderRecipe(EncoderRecipe):
    """An embedding model and how it is stored and used."""

    pooling: Literal["mean", "cls"] = "mean"
    gate: EmbedderGate = field(default_factory=EmbedderGate)


def build_embedder(recipe: EmbedderRecipe, out: Path) -> dict[str, Any]:
    """Write model.onnx, model.onnx.data, tokenizer.json and embedder.json into `out`; return the gate's figures.

    :param out: an existing, empty folder.
    :raises SourceError: the model cannot be fetched.
    :raises BuildError: a pass failed; names the log.
    :raises GateError: the build is too far from the original.
    """
    origin = sources.fetch(recipe.source)
    encoder.check_origin(origin, recipe.id, "embedder", recipe.max_tokens)
    _check_pooling(origin, recipe)
    log = f"embedder-{digest_of(recipe)[:12]}"
    wanted = Encoder(
        recipe.id, "feature-extraction", "last_hidden_state", recipe.tool, recipe.precision, recipe.reduce_range
    )
    with encoder.scratch(out) as scratch:
        encoder.build(wanted, origin, out, scratch / "build", log)
        description = {"dim": _dim(out / EMBEDDER_MODEL), "max_tokens": recipe.max_tokens, "pooling": recipe.pooling}
        write_atomic(out / DESCRIPTION, json.dumps(description))
        job = embedder_gate.Reference(origin, recipe.pooling, recipe.max_tokens)
        with OnnxEmbedder(out, section(recipe, out, "embedder"), threads=2) as built:
            texts = embedder_gate.shipped_texts(lambda text: built.count_tokens(text) <= built.max_tokens)
            figures = embedder_gate.compare(built, recipe, job, texts, encoder.made(scratch / "gate"), log)
        judged = embedder_gate.judge(figures, recipe.gate)
        write_atomic(out / DESCRIPTION, json.dumps({**description, "gate": judged}, indent=2))
    return judged


def _check_pooling(origin: Path, recipe: EmbedderRecipe) -> None:
    """A sentence-transformers folder says itself how vectors are made of hidden states.

    :raises BuildError: the recipe says otherwise.
    """
    path = origin / _POOLING
    if not path.is_file():
        return
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        modes = {name for name, chosen in said.items() if name.startswith("pooling_mode_") and chosen is True}
    except (ValueError, AttributeError) as error:
        raise BuildError(f"the source of {recipe.id}: {_POOLING} cannot be read: {error}") from None
    wanted = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[recipe.pooling]
    if modes and modes != {wanted}:
        raise BuildError(
            f"the source of {recipe.id} says {', '.join(sorted(modes))} ({_POOLING}), and embedder.pooling is "
            f"{recipe.pooling}: mean and cls are what a bundle's embedder can do, and only what it was trained for"
        )


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
