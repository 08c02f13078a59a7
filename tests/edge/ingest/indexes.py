"""Small indexes whose vectors follow from the text, as a real embedder's do, and what they answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.config import RetrieveConfig
from edge.ingest.chunk import embedding_text
from edge.retrieve import retrieve
from edge.store.chunks import Store
from edge.types import Block, Chunk, Document

DIM = 16
CHUNK = 60
QUERIES = ("alpha pump", "the reset button", "gamma delta", "was ist das")


class Embedder:
    """A vector of its own for each text."""

    def embed_query(self, text: str) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
        return vector / np.float32(np.linalg.norm(vector))

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.embed_query(text) for text in texts]) if texts else np.zeros((0, DIM), np.float32)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def open_index(path: Path, *, fingerprint: str = "f", chunker: str = "c") -> Store:
    store = Store.open(path, create=True, fingerprint=fingerprint, dim=DIM, chunker=chunker)
    store.connection.execute("PRAGMA synchronous = OFF")  # no power is cut here
    return store


def put(store: Store, source: str, text: str, *, language: str = "en", title: str = "Title", summary: str = "") -> None:
    """Store a text in chunks of CHUNK characters, and a summary where one is given."""
    block = Block(0, len(text), headings=("Köpfe",), page=2)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    settings = json.dumps({"summaries": bool(summary)})
    document = Document(source, sha256, "txt", title, text, (block,), language, "2026-01-02", ("a", "b"))
    chunks = [
        Chunk(ordinal, at, min(at + CHUNK, len(text)), text[at : at + CHUNK], ("Köpfe",), 2)
        for ordinal, at in enumerate(range(0, len(text), CHUNK))
    ]
    if summary:
        chunks.append(Chunk(len(chunks), 0, len(text), summary, kind="summary"))
    said = [embedding_text(title, chunk) for chunk in chunks]
    terms = [lexical.terms(one, language) for one in said]
    store.replace(document, chunks, Embedder().embed_documents(said), terms, settings=settings)


def answers(store: Store, queries: Sequence[str] = QUERIES, *, exact_chunks: int = 5000) -> list[list[object]]:
    """All hits of each question with every score; chunks of equal score in one order, whatever their ids."""
    config = RetrieveConfig(top_k=999, depth=999, exact_chunks=exact_chunks)
    found = []
    for query in queries:
        hits = retrieve(query, store, Embedder(), config)
        rows = [(-hit.score, hit.document, hit.chunk, hit.title, hit.language, hit.dense, hit.lexical) for hit in hits]
        found.append(sorted(rows, key=repr))
    return found  # type: ignore[return-value]
