"""Sign bits of vectors, 48 bytes for 384 dimensions, and the search over them. Pure: arrays in, ids out.

Three steps, each on what the step before left over. All vectors by Hamming distance of their signs to the question's
signs (Charikar 2002, "Similarity estimation techniques from rounding algorithms"); some thousands by the product of
their signs and the question itself, which loses the rounding of one side only (Gordo et al. 2014, "Asymmetric distances
for binary embeddings"); some hundreds by their vectors, which is done in search.py. What this finds against the exact
search, `edge index status --check` prints. Centring the vectors, rotating them at random and learning a rotation (ITQ)
were measured and gain less than a few more candidates do: docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEGMENT = 2**14  # ids of one segment: what comparing it needs stays in the processor's cache


_BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float32)


@dataclass(frozen=True, slots=True)
class Segment:
    """The signs of the vectors with ids base .. base + SEGMENT - 1."""

    base: int
    offsets: NDArray[np.uint16]  # (n,), ascending: id - base
    words: NDArray[np.uint64]  # (ceil(dim / 64), n), word by word: each is one run of memory

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.words.nbytes


def pack(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Float32 (n, dim) to uint8 (n, ceil(dim / 8)): bit i of a row, from the lowest, is component i > 0."""
    return np.packbits(vectors > 0, axis=1, bitorder="little")


def words_of(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Uint8 (n, bytes) to uint64 (ceil(bytes / 8), n)."""
    count, width = bits.shape
    padded = np.zeros((count, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = bits
    return np.ascontiguousarray(padded.view(np.uint64).T)


def nearest(
    segments: Iterable[Segment],
    query: NDArray[np.float32],
    *,
    coarse: int,
    fine: int,
    allowed: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Ids of the `fine` vectors that are likeliest to be nearest to the query, int64, in no order.

    `query` is float32 (dim,). `coarse` vectors are left by Hamming distance before the closer look. With `allowed`,
    sorted ids, no other vector is considered.
    """
    signs = words_of(pack(query[None]))
    best = _Best(coarse)
    for segment in segments:
        distances = np.bitwise_count(segment.words ^ signs).sum(axis=0, dtype=np.uint16)
        near = distances < best.limit
        if allowed is not None:
            near &= _among(segment, allowed)
        best.offer(segment, np.flatnonzero(near), distances)
    ids, words = best.result(len(signs))
    if len(ids) <= fine:
        return ids
    return ids[np.argpartition(-products(words, query), fine - 1)[:fine]]


def products(words: NDArray[np.uint64], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each vector's signs, (w, n), taken as 1 and 0, and the query: float32 (n,), ordered as with 1 and -1.

    A table gives what each value of each byte adds. A matrix product would be spread over threads that wait for each
    other, which takes ten times as long where another process is busy.
    """
    count, width = words.shape[1], 8 * len(words)
    padded = np.zeros(8 * width, np.float32)
    padded[: len(query)] = query
    table = _BITS_OF_BYTES @ padded.reshape(width, 8).T  # (256, width)
    codes = np.ascontiguousarray(words.T).view(np.uint8).reshape(count, width)
    places = codes.astype(np.int32)
    places *= width
    places += np.arange(width, dtype=np.int32)
    added: NDArray[np.float32] = np.take(table, places).sum(axis=1)
    return added


def _among(segment: Segment, allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which vectors of the segment are allowed, bool (n,)."""
    first, last = np.searchsorted(allowed, (segment.base, segment.base + SEGMENT))
    there = np.zeros(SEGMENT, np.bool_)
    there[allowed[first:last] - segment.base] = True
    return there[segment.offsets]


class _Best:
    """The `count` vectors of least distance among those offered, and what came since there were twice as many."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held = 0
        self._parts: list[tuple[Segment, NDArray[np.intp], NDArray[np.uint16]]] = []  # places, and their distances
        self.limit = np.uint16(2**16 - 1)  # a vector that is not nearer need not be offered

    def offer(self, segment: Segment, places: NDArray[np.intp], distances: NDArray[np.uint16]) -> None:
        """Take these places of a segment; `distances` has those of all places."""
        if len(places) > self._count:
            places = places[_least(distances[places], self._count)]
        held = distances[places]
        if len(held) == self._count:
            self.limit = held.max()
        self._parts.append((segment, places, held))
        self._held += len(held)
        if self._held > 2 * self._count:
            self._shrink()

    def result(self, words: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Ids (n,) and words (words, n) of the best."""
        self._shrink()
        ids = [segment.offsets[places].astype(np.int64) + segment.base for segment, places, _ in self._parts]
        taken = [np.take(segment.words, places, axis=1) for segment, places, _ in self._parts]
        if not ids:
            return np.empty(0, np.int64), np.empty((words, 0), np.uint64)
        return np.concatenate(ids), np.concatenate(taken, axis=1)

    def _shrink(self) -> None:
        if self._held <= self._count:
            return
        distances = np.concatenate([held for *_, held in self._parts])
        kept = np.zeros(len(distances), np.bool_)
        kept[_least(distances, self._count)] = True
        self.limit = distances[kept].max()
        ends = np.cumsum([len(held) for *_, held in self._parts])[:-1]
        parts = zip(self._parts, np.split(kept, ends), strict=True)
        self._parts = [(segment, places[k], held[k]) for (segment, places, held), k in parts if k.any()]
        self._held = self._count


def _least(distances: NDArray[np.uint16], count: int) -> NDArray[np.intp]:
    """The places of the `count` smallest. To find the limit first and then what is below it is ten times as fast as
    `argpartition`, for which numpy has no vector instructions."""
    limit = np.partition(distances, count - 1)[count - 1]
    below = np.flatnonzero(distances < limit)
    return np.concatenate([below, np.flatnonzero(distances == limit)[: count - len(below)]])
