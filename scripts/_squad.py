"""SQuAD-format files as documents of a temporary index; shared by the scripts that measure on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.config import EdgeConfig
from edge.ingest.index import DocumentEmbedder, Indexer, IngestReport, chunker_id
from edge.store.chunks import Store
from edge.types import Block, Document


@dataclass(frozen=True)
class Question:
    text: str
    source: str  # of the document that answers it
    spans: tuple[tuple[int, int], ...]  # of the annotated answers; empty where the file says there is none


def read(path: Path, language: str = "en") -> tuple[list[Document], list[Question]]:
    """Every context as a document, under its article's title, and every question."""
    documents: list[Document] = []
    questions: list[Question] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            text, source = paragraph["context"], f"/squad/{len(documents):05}.txt"
            title = article.get("title", "").replace("_", " ")
            blocks = tuple(_paragraphs(text))
            documents.append(Document(source, str(len(documents)), "txt", title, text, blocks, language, "2026-01-01"))
            questions += [Question(qa["question"], source, _spans(qa)) for qa in paragraph["qas"]]
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


def _paragraphs(text: str) -> Iterator[Block]:
    """Runs of lines between blank lines, as the reader of plain text gives them."""
    from edge.ingest.formats.plain import paragraphs

    return (Block(start, end) for start, end in paragraphs(text, 0, len(text)))


def _spans(qa: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """The answers' spans without the white space around them, which a chunk leaves out."""
    spans = []
    for answer in qa.get("answers", []):
        text = answer["text"]
        start = answer["answer_start"] + len(text) - len(text.lstrip())
        spans.append((start, start + len(text.strip())))
    return tuple(spans)
