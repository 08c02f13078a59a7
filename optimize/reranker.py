"""The reranker's build: a cross-encoder, safetensors -> ONNX -> int8 (`optimize.encoder`), compared with its original.

A cross-encoder reads a question and a passage together and gives one number, how well the passage answers the question
(Nogueira & Cho 2019, "Passage Re-ranking with BERT").
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge import machine, onnx_text, rerank
from edge.bundle import EMBEDDER_TOKENIZER, BaseModel, RerankerSection
from edge.errors import BuildError
from edge.files import write_atomic
from edge.rerank import OnnxReranker
from optimize import encoder, measure, reranker_gate, sources
from optimize.encoder import Encoder, EncoderRecipe
from optimize.reranker_gate import RerankerGate
from optimize.stages import digest_of

TOOLS = encoder.TOOLS
CODE = (encoder, measure, onnx_text, rerank, reranker_gate, *encoder.CODE)
"""Modules besides this one that decide what is built."""

DESCRIPTION = "reranker.json"
_UNSAID_LABELS = 2  # of a configuration that does not say how many there are, as transformers reads it


@dataclass(frozen=True)
class RerankerRecipe(EncoderRecipe):
    """A cross-encoder with one label, and how it is stored and used."""

    activation: Literal["sigmoid", "none"] = "sigmoid"  # makes a relevance of its output; the order is the same
    gate: RerankerGate = field(default_factory=RerankerGate)


def build_reranker(recipe: RerankerRecipe, out: Path) -> dict[str, Any]:
    """Write model.onnx, model.onnx.data, tokenizer.json and reranker.json into `out`; return the gate's figures.

    :param out: an existing, empty folder.
    :raises SourceError: the model cannot be fetched.
    :raises BuildError: it is no cross-encoder with one label, or a pass failed; names the log.
    :raises GateError: the build is too far from the original.
    """
    origin = sources.fetch(recipe.source)
    check_origin(origin, recipe)
    log = f"reranker-{digest_of(recipe)[:12]}"
    wanted = Encoder(recipe.id, "text-classification", "logits", recipe.tool, recipe.precision, recipe.reduce_range)
    words = onnx_text.load_tokenizer(origin / EMBEDDER_TOKENIZER)
    most = rerank.max_query_tokens(recipe.max_tokens)
    pairs = reranker_gate.shipped_pairs(
        lambda text: len(words.encode(recipe.query_prefix + text, add_special_tokens=False).ids) <= most
    )
    with encoder.scratch(out) as scratch:
        theirs = reranker_gate.reference_scores(origin, recipe, pairs, encoder.made(scratch / "gate"), log)
        encoder.build(wanted, origin, out, scratch / "build", log)
        with OnnxReranker(out, unmeasured(recipe, "reranker"), threads=2) as built:
            figures = reranker_gate.compare(built, pairs, theirs)
        judged = reranker_gate.judge(figures, recipe.gate)
        write_atomic(out / DESCRIPTION, json.dumps({"max_tokens": recipe.max_tokens}))
        private = measure.measure("reranker", out, scratch, f"{log}-memory")
        description = {"max_tokens": recipe.max_tokens, "private_bytes": private, "gate": judged}
        write_atomic(out / DESCRIPTION, json.dumps(description, indent=2))
    return judged


def check_origin(origin: Path, recipe: RerankerRecipe) -> None:
    """:raises BuildError: a file is missing, or it is no cross-encoder with one label."""
    config = encoder.check_origin(origin, recipe.id, "reranker", recipe.max_tokens)
    architectures = [str(name) for name in config.get("architectures") or ()]
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise BuildError(
            f"{recipe.id} is no cross-encoder: its architecture is {', '.join(architectures) or 'not given'}, not "
            "one for sequence classification. An embedder belongs into the section embedder"
        )
    labels = len(config.get("id2label") or ()) or int(config.get("num_labels") or _UNSAID_LABELS)
    if labels != 1:
        raise BuildError(
            f"{recipe.id} has {labels} labels: it sorts texts into classes. A reranker has one, the relevance"
        )


def section(recipe: RerankerRecipe, folder: Path, path: str) -> RerankerSection:
    """The manifest's section for what `build_reranker` wrote into `folder` and will stand at `path` in the bundle."""
    return unmeasured(recipe, path, _description(folder)["private_bytes"])


def unmeasured(recipe: RerankerRecipe, path: str, private_bytes: int = 0) -> RerankerSection:
    """The same before its memory is known."""
    return RerankerSection(
        path=path,
        base=BaseModel(
            id=recipe.id,
            source=sources.describe(recipe.source),
            sha256=sources.pinned(recipe.source),
            licence=recipe.licence,
        ),
        max_tokens=recipe.max_tokens,
        activation=recipe.activation,
        query_prefix=recipe.query_prefix,
        document_prefix=recipe.document_prefix,
        private_bytes=private_bytes,
    )


def gate_figures(folder: Path) -> dict[str, Any]:
    """What the gate measured when the reranker in `folder` was built, with the thresholds."""
    figures: dict[str, Any] = _description(folder)["gate"]
    return figures


def private_bytes(folder: Path) -> int:
    """Private bytes (RssAnon) that this process gains by loading the reranker and scoring one pair of full length."""
    import onnxruntime  # noqa: F401 - what the libraries themselves take is not counted
    import tokenizers  # noqa: F401

    most = _description(folder)["max_tokens"]
    loaded = RerankerSection("", BaseModel("", "", "", ""), most, "none", "", "", 0)
    before = machine.private_bytes()
    with OnnxReranker(folder, loaded, threads=2) as reranker:
        reranker.score("the", ["the " * most])
        return machine.private_bytes() - before


def _description(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return found
