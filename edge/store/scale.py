"""Indexes of a chosen number of vectors, for measuring how a search grows: real ones, then perturbed copies of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.store.chunks import Store
from edge.store.recall import turned
from edge.store.vectors import read_all
from edge.types import Chunk, Document

COSINE = 0.9  # of a copy and the chunk that it is made of: about that of neighbouring chunks
_PER_DOCUMENT = 4096


def scaled(source: Store, path: Path, chunks: int, *, seed: int = 0) -> tuple[Store, int]:
    """Make an index of `chunks` vectors with no text; returns it and how many of its vectors are those of `source`.

    Where `source` has fewer, the rest are copies of its vectors, turned along the difference of two others drawn at
    random, to a cosine of COSINE.

    :raises ValueError: there is a file, or `source` is empty.
    :raises StoreError: an index cannot be read or written.
    """
    if path.exists():
        raise ValueError(f"{path} exists already")
    real = np.concatenate([vectors for _, vectors in read_all(source.connection)])
    made = source.identity
    target = Store.open(path, create=True, fingerprint=made.embedder, dim=made.dim, chunker=made.chunker)
    with target.transaction():
        for number, vectors in enumerate(_parts(real, chunks, seed)):
            document = Document(f"/scaled/{number}", str(number), "txt", "", "", (), "en", "2026-01-01")
            empty = [Chunk(ordinal, 0, 0, "") for ordinal in range(len(vectors))]
            target.replace(document, empty, vectors, itertools.repeat((), len(vectors)))
    return target, min(chunks, len(real))


def _parts(real: NDArray[np.float32], chunks: int, seed: int) -> Iterator[NDArray[np.float32]]:
    drawn = np.random.default_rng(seed)
    for first in range(0, chunks, _PER_DOCUMENT):
        rows = np.arange(first, min(first + _PER_DOCUMENT, chunks))
        vectors = real[rows % len(real)]
        one = drawn.integers(len(real), size=len(rows))
        other = one + drawn.integers(1, max(len(real), 2), size=len(rows))
        copies = turned(vectors, real[one] - real[other % len(real)], COSINE)
        yield np.where((rows < len(real))[:, None], vectors, copies)
