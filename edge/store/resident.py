"""The sign bits of an index in memory: 50 bytes a chunk instead of reading 1536 from the file, which would push the
weights of the model out of memory. Follows what any connection writes, block by block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import apsw
import numpy as np
from numpy.typing import NDArray

from edge.store.signs import SEGMENT, Segment, nearest, words_of
from edge.store.vectors import BLOCK, Totals, totals

BLOCKS = SEGMENT // BLOCK  # of a segment
COARSE, LEAST_COARSE = 40, 2000  # times what is asked for, and at least: see `breadth`
FINE, LEAST_FINE = 6, 300
BREADTH_CHUNKS = 100_000  # above so many chunks, both grow

Block = tuple[int, bytes, bytes]  # number, members, bits


class Resident:
    """The signs of one open index. Read on first use; `refresh` before each search makes it follow the file."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._segments: dict[int, Segment] = {}
        self._seen: Totals | None = None

    def __len__(self) -> int:
        return sum(len(segment.offsets) for segment in self._segments.values())

    @property
    def nbytes(self) -> int:
        """What the bits take between two searches, in bytes."""
        return sum(segment.nbytes for segment in self._segments.values())

    def refresh(self) -> None:
        """Read what was written since the last time; all of it where that cannot be told."""
        now = totals(self._connection)
        seen = self._seen
        if seen == now:
            return
        after = seen.generation if seen and seen.epoch == now.epoch and seen.generation < now.generation else None
        if after is None:
            self._segments.clear()
        self._seen = None  # until all is read
        for number, blocks in itertools.groupby(self._blocks(after), key=lambda block: block[0] // BLOCKS):
            self._replace(number, list(blocks))
        # What this connection has not committed may yet be undone: do not take it for known.
        writing = self._connection.txn_state("main") == apsw.SQLITE_TXN_WRITE
        self._seen = None if writing else now

    def nearest(
        self, query: NDArray[np.float32], count: int, allowed: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Ids among which the `count` vectors nearest to the query are, nearly always; int64, in no order.

        `query` is float32 (dim,); with `allowed`, sorted ids, no other one is given.
        """
        coarse, fine = breadth(count, len(self))
        segments = (self._segments[number] for number in sorted(self._segments))
        return nearest(segments, query, coarse=coarse, fine=fine, allowed=allowed)

    def _blocks(self, after: int | None) -> Iterator[Block]:
        if after is None:
            return iter(self._connection.execute("SELECT block, members, bits FROM signs ORDER BY block"))
        sql = "SELECT block, members, bits FROM signs WHERE generation > ? ORDER BY block"
        return iter(self._connection.execute(sql, (after,)))

    def _replace(self, number: int, blocks: list[Block]) -> None:
        """Put blocks in place of those that the segment has under their numbers."""
        base = number * SEGMENT
        offsets, words = _arrays(blocks, base)
        if (old := self._segments.get(number)) is not None:
            kept = ~np.isin(old.offsets // BLOCK, [block % BLOCKS for block, *_ in blocks])
            words = np.concatenate([old.words[:, kept], words], axis=1) if len(offsets) else old.words[:, kept]
            offsets = np.concatenate([old.offsets[kept], offsets])
            order = np.argsort(offsets)
            offsets, words = offsets[order], np.ascontiguousarray(words[:, order])
        if len(offsets):
            self._segments[number] = Segment(base, offsets, words)
        else:
            self._segments.pop(number, None)


def breadth(count: int, chunks: int) -> tuple[int, int]:
    """How many of `chunks` vectors stay after the first and after the second look, for the best `count`.

    Chosen by measuring for a recall@10 of 0.985 at 100,000 real chunks and at 1,000,000: docs/decisions.md.
    """
    growth = max(1.0, (chunks / BREADTH_CHUNKS) ** (1 / 3))
    return int(growth * max(LEAST_COARSE, COARSE * count)), int(growth * max(LEAST_FINE, FINE * count))


def resident_bytes(chunks: int, dim: int, count: int = 50) -> int:
    """The most memory that searching the signs of `chunks` vectors for the best `count` takes, in bytes.

    What stays, and the larger of what reading one segment and what one search needs for a moment.
    """
    row = 8 * -(-dim // 64)
    coarse, _ = breadth(count, chunks)
    reading = min(chunks, SEGMENT) * (4 * row + 32)  # blocks, the segment made of them, and the one it stands in for
    comparing = min(chunks, SEGMENT) * (row + row // 8 + 24)
    refining = min(chunks, coarse) * (19 * row + 32)  # what each byte of the signs adds, and where that is looked up
    return chunks * (row + 2) + max(reading, comparing, refining) + 2**16


def _arrays(blocks: Iterable[Block], base: int) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """Offsets (n,) within the segment and words (w, n) of blocks."""
    held = [block for block in blocks if block[1]]
    if not held:
        return np.empty(0, np.uint16), np.empty((0, 0), np.uint64)
    first = np.repeat([block * BLOCK - base for block, *_ in held], [len(members) for _, members, _ in held])
    members = np.frombuffer(b"".join(members for _, members, _ in held), np.uint8)
    bits = np.frombuffer(b"".join(bits for *_, bits in held), np.uint8).reshape(len(members), -1)
    return (first + members).astype(np.uint16), words_of(bits)
