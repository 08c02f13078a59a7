"""Indexes of other sizes: exact in size, searchable, and true about what in them is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.bench.resized import NOISE, moved, resize
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Searcher
from edge.store.upkeep import problems
from edge.types import Block, Chunk, Document

DIM = 16


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """Three documents of 4 chunks each."""
    store = Store.open(tmp_path / "source.db", create=True, fingerprint="f", dim=DIM, chunker="c")
    rng = np.random.default_rng(0)
    for number in range(3):
        sentences = [f"Valve {number}{part} opens. " for part in range(4)]
        text = "".join(sentences)
        starts = [sum(map(len, sentences[:part])) for part in range(4)]
        chunks = [Chunk(n, start, start + len(sentences[n]) - 1, sentences[n][:-1]) for n, start in enumerate(starts)]
        vectors = rng.normal(size=(4, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        document = Document(
            f"/d/{number}.txt", "0" * 64, "txt", f"Valve {number}", text, (Block(0, len(text)),), "en", "2026-01-01"
        )
        store.replace(document, chunks, vectors, [["valv", "open"] for _ in chunks])
    return store


@pytest.mark.parametrize(("chunks", "real"), [(3, 3), (12, 12), (31, 12)])
def test_an_index_has_exactly_the_size(source: Store, tmp_path: Path, chunks: int, real: int) -> None:
    made = resize(source, tmp_path / "made.db", chunks, seed=0)
    with made.store as store:
        assert Searcher(store).statistics().chunks == chunks
        assert made.real_chunks == real
        assert len(Searcher(store).lexical(["open"], 100, Filter())) == chunks
        assert problems(store) == []
    assert Searcher(source).statistics().chunks == 12


def test_a_copy_is_near_its_original_and_not_on_it(source: Store, tmp_path: Path) -> None:
    vectors = np.eye(DIM, dtype=np.float32)
    copies = moved(vectors, np.random.default_rng(0))
    cosines = (vectors * copies).sum(axis=1)
    assert np.allclose(np.linalg.norm(copies, axis=1), 1, atol=1e-6)
    assert np.all(cosines < 0.999)
    assert np.mean(cosines) == pytest.approx(1 / np.sqrt(1 + NOISE**2), abs=0.03)
