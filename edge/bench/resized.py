"""An index of another size with texts, words and vectors, made from one that is there: for measuring how cost grows.

A smaller one holds some of the documents. A larger one holds them all, and then copies of them whose vectors were
moved by noise: copies that lie exactly on each other would tie in every search. (edge/store/scale.py makes indexes of
vectors alone, much faster and larger.)
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.retrieve import index_terms
from edge.store.chunks import Store
from edge.store.connect import translated
from edge.store.search import Found, Searcher
from edge.store.vectors import read_all

NOISE = 0.4
"""Length of the noise beside a vector of length 1: the cosine of a copy to its original is about 0.93."""


@dataclasses.dataclass(frozen=True, slots=True)
class Resized:
    """A made index, open."""

    store: Store
    real_chunks: int  # that were taken over unchanged


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """The chunks of one document with their vectors, float32 (n, dim)."""

    source: str
    found: list[Found]
    vectors: NDArray[np.float32]


def resize(source: Store, path: Path, chunks: int, seed: int) -> Resized:
    """Make an index of exactly so many chunks at `path`, drawn with `seed`; the caller closes it.

    :raises StoreError: the source cannot be read, or the disk is full.
    """
    identity = source.identity
    store = Store.open(path, create=True, fingerprint=identity.embedder, dim=identity.dim, chunker=identity.chunker)
    try:
        real = _fill(source, store, chunks, seed)
    except BaseException:
        store.close()
        raise
    return Resized(store, real)


def _fill(source: Store, store: Store, chunks: int, seed: int) -> int:
    noise, parts = np.random.default_rng(seed), list(_parts(source))
    random.Random(seed).shuffle(parts)
    stored = real = 0
    with store.transaction():
        for copy in itertools.count():
            for part in parts:
                count = min(len(part.found), chunks - stored)
                if count == 0:
                    return real
                document = source.document(part.source)
                if document is None:  # removed meanwhile
                    continue
                if copy:
                    document = dataclasses.replace(document, source=f"{part.source}~{copy}")
                vectors = moved(part.vectors[:count], noise) if copy else part.vectors[:count]
                found = part.found[:count]
                store.replace(document, [one.chunk for one in found], vectors, [index_terms(one) for one in found])
                stored += count
                real += 0 if copy else count
    return real


def moved(vectors: NDArray[np.float32], noise: np.random.Generator) -> NDArray[np.float32]:
    """The vectors, float32 (n, dim), unit length, each moved in a random direction by `NOISE`, and of unit length."""
    scale = NOISE / np.sqrt(vectors.shape[1])
    shifted = vectors + noise.normal(scale=scale, size=vectors.shape).astype(np.float32)
    shifted /= np.linalg.norm(shifted, axis=1, keepdims=True)
    return shifted


def _parts(source: Store) -> Iterator[_Part]:
    """Every document's chunks with their vectors, in the order in which they are stored."""
    with translated(source.path):
        blocks = list(read_all(source.connection))
    vectors = {id: row for ids, rows in blocks for id, row in zip(ids, rows, strict=True)}
    found = Searcher(source).found(vectors)
    by_document: dict[str, list[int]] = {}
    for id, one in sorted(found.items()):
        by_document.setdefault(one.document, []).append(id)
    for name, ids in by_document.items():
        yield _Part(name, [found[id] for id in ids], np.stack([vectors[id] for id in ids]))
