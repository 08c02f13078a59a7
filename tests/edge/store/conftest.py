"""A kit for the tests of the store: small documents with random vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import lexical
from edge.store.chunks import Store
from edge.types import Block, Chunk, Document


class Kit:
    """Makes documents and stores them, cut every `chunk_characters`, under random vectors."""

    dim = 32
    chunk_characters = 100

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.db"
        self.identity: dict[str, Any] = {"fingerprint": "embedder-1", "dim": self.dim, "chunker": "chunker-1"}
        self._random = np.random.default_rng(11)

    def open(self, **expected: Any) -> Store:
        return Store.open(self.path, create=True, **{**self.identity, **expected})

    def document(
        self,
        source: str,
        text: str,
        *,
        language: str = "en",
        type: str = "txt",
        tags: tuple[str, ...] = (),
        date: str = "2026-01-02",
    ) -> Document:
        block = Block(0, len(text), headings=("Head",), page=2)
        return Document(source, f"hash of {text[:20]}", type, "Title", text, (block,), language, date, tags)

    def vectors(self, count: int) -> NDArray[np.float32]:
        made = self._random.normal(size=(count, self.dim)).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def put(self, store: Store, document: Document) -> None:
        text, step = document.text, self.chunk_characters
        chunks = [
            Chunk(ordinal, at, min(at + step, len(text)), text[at : at + step])
            for ordinal, at in enumerate(range(0, len(text), step))
        ]
        terms = [lexical.terms(chunk.text, document.language) for chunk in chunks]
        store.replace(document, chunks, self.vectors(len(chunks)), terms)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)
