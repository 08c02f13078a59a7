"""How much of the exact search's answer the search of an index finds, and how long either takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.store.chunks import Store
from edge.store.connect import translated
from edge.store.filters import Filter
from edge.store.search import EXACT_CHUNKS, Searcher
from edge.store.vectors import read_all

SAMPLE = 200  # chunks that stand for questions in a check
EXACT_TIMED = 5  # exact searches that are timed: each reads every vector
QUESTION_COSINE = 0.5  # of a question and the chunk that is nearest to it: the median of 300 was 0.54
SAME = 1e-5  # cosines that differ by less are equal: two ways of adding up float32 give no less


@dataclass(frozen=True, slots=True)
class Recall:
    """What searches for the best `depth` found of what an exact search finds, and their times in seconds."""

    depth: int
    queries: int
    recall: float  # mean share of the exact `depth` best, 0..1; chunks of the same cosine stand for each other
    search_sec: tuple[float, ...]  # one for each query
    exact_sec: tuple[float, ...]  # of the first `EXACT_TIMED` queries

    @property
    def search_sec_p50(self) -> float:
        return statistics.median(self.search_sec)

    @property
    def exact_sec_p50(self) -> float:
        return statistics.median(self.exact_sec)


def check(store: Store, exact_chunks: int = EXACT_CHUNKS, *, seed: int = 0) -> Recall | None:
    """Recall@10 with some of the index's own chunks in place of questions; None where there are fewer than three.

    Each is turned away until it is as far from its chunk as questions are from the nearest one. On 100,000 chunks of
    documentation this gives 0.995 where real sentences give 0.991, and needs nothing but the index.

    :raises StoreError: the index cannot be read.
    """
    chunks = sample(store, SAMPLE, seed)
    if len(chunks) < 3:
        return None
    away = np.roll(chunks, 1, axis=0) - np.roll(chunks, 2, axis=0)
    return measure(store, turned(chunks, away, QUESTION_COSINE), depth=10, exact_chunks=exact_chunks)


def turned(vectors: NDArray[np.float32], away: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """Vectors (n, dim) of unit length, each turned in the direction of `away`, to this cosine with what it was.

    With differences of other vectors as `away`, this is noise as the data has it, not the same in all directions.
    """
    away = away - (away * vectors).sum(axis=1, keepdims=True) * vectors
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), np.float32(1e-6))
    moved = np.float32(cosine) * vectors + np.float32(np.sqrt(1 - cosine**2)) * away
    result: NDArray[np.float32] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return result


def sample(store: Store, count: int, seed: int) -> NDArray[np.float32]:
    """The vectors of some chunks drawn at random, float32 (at most count, dim); none twice."""
    first, last = store._rows("SELECT min(id), max(id) FROM vectors")[0]
    if first is None:
        return np.empty((0, store.identity.dim), np.float32)
    drawn = np.random.default_rng(seed).integers(first, last + 1, size=count)
    after = "SELECT id, embedding FROM vectors WHERE id >= ? ORDER BY id LIMIT 1"
    chosen: dict[int, bytes] = dict(store._rows(after, int(id))[0] for id in drawn)
    return np.frombuffer(b"".join(chosen.values()), "<f4").reshape(len(chosen), -1)


def measure(
    store: Store,
    queries: NDArray[np.float32],
    *,
    depth: int = 10,
    exact_chunks: int = EXACT_CHUNKS,
) -> Recall:
    """Search for each query, float32 (n, dim), and compare with what an exact search finds.

    :raises StoreError: the index cannot be read.
    """
    searcher = Searcher(store, exact_chunks)
    everything = Filter()
    best = _best(store, queries, depth)
    searcher.dense(queries[0], depth, everything)  # reads the signs into memory
    found, search_sec = _timed(lambda query: searcher.dense(query, depth, everything), queries)
    _, exact_sec = _timed(lambda query: searcher.exact(query, depth, everything), queries[:EXACT_TIMED])
    shares = [
        sum(cosine >= exact[-1] - SAME for _, cosine in hits) / len(exact)
        for hits, exact in zip(found, best, strict=True)
    ]
    return Recall(depth, len(queries), statistics.fmean(shares), tuple(search_sec), tuple(exact_sec))


def _best(store: Store, queries: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The `count` largest cosines of each query, float32 (n, count), descending, in one pass over all vectors."""
    best = np.empty((len(queries), 0), np.float32)
    with translated(store.path):
        for _, vectors in read_all(store.connection):
            best = np.concatenate([best, queries @ vectors.T], axis=1)
            best = -np.sort(-best, axis=1)[:, :count] if best.shape[1] > count else -np.sort(-best, axis=1)
    return best


def _timed(
    search: Callable[[NDArray[np.float32]], list[tuple[int, float]]], queries: NDArray[np.float32]
) -> tuple[list[list[tuple[int, float]]], list[float]]:
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(search(query))
        seconds.append(time.perf_counter() - started)
    return found, seconds
