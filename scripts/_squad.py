"""SQuAD-format files as documents of a temporary index; shared by the scripts that measure on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.config import EdgeConfig
from edge.ingest.formats import plain
from edge.ingest.formats.base import Source, clean
from edge.ingest.index import DocumentEmbedder, Indexer, IngestReport, chunker_id
from edge.store.chunks import Store
from edge.types import Document


@dataclass(frozen=True)
class Question:
    text: str
    source: str  # of the document that answers it
    spans: tuple[tuple[int, int], ...]  # of the annotated answers; empty where the file says there is none


def read(path: Path, language: str = "en") -> tuple[list[Document], list[Question]]:
    """Every context as the document that a .txt file of it would give, and every question.

    Where the reader of plain text finds no title in it, its article's title stands for the file's name.
    """
    documents: list[Document] = []
    questions: list[Question] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        name = article.get("title", "").replace("_", " ")
        for paragraph in article["paragraphs"]:
            context, source = paragraph["context"], f"/squad/{len(documents):05}.txt"
            data = context.encode()
            parsed = plain.parse(
                Source(path=Path(source), type="txt", data=data, max_chars=2**31, max_unpacked_bytes=0)
            )[0]
            digest = hashlib.sha256(data).hexdigest()
            documents.append(
                Document(
                    source, digest, "txt", parsed.title or name, parsed.text, parsed.blocks, language, "2026-01-01"
                )
            )
            questions += [Question(qa["question"], source, _spans(qa, context)) for qa in paragraph["qas"]]
    return documents, questions


def build(
    path: Path,
    documents: Sequence[Document],
    embedder: DocumentEmbedder,
    config: EdgeConfig,
    *,
    fingerprint: str,
    dim: int,
) -> tuple[Store, IngestReport]:
    """A new index of the documents, made as `edge ingest` makes it."""
    chunker = chunker_id(config.ingest.chunk)
    store = Store.open(path, create=True, fingerprint=fingerprint, dim=dim, chunker=chunker)
    report = IngestReport()
    indexer = Indexer(store, embedder, config.ingest.chunk, report)
    for document in documents:
        indexer.put(document, "{}")
    return store, report


def _spans(qa: dict[str, Any], context: str) -> tuple[tuple[int, int], ...]:
    """The answers' spans in the extracted text, without the white space around them, which a chunk leaves out."""
    spans = []
    for answer in qa.get("answers", []):
        text = clean(answer["text"])
        start = len(clean(context[: answer["answer_start"]])) + len(text) - len(text.lstrip())
        spans.append((start, start + len(text.strip())))
    return tuple(spans)
