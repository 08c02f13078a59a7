"""The tables of vectors: each by itself, their sign bits in blocks, and the totals that say when these have changed.

Whoever calls holds a transaction for what writes, and is inside `connect.translated`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apsw
import numpy as np
from numpy.typing import NDArray

from edge.store.signs import pack

BLOCK = 256  # ids of one row of `signs`: a member's place in it is one byte
READ_AT_ONCE = 2048  # vectors held at a time when all are read


@dataclass(frozen=True, slots=True)
class Totals:
    """The row of `totals`."""

    chunks: int
    terms: int
    generation: int
    epoch: int


def totals(connection: apsw.Connection) -> Totals:
    """Counts of the whole index, without counting."""
    return Totals(*connection.execute("SELECT chunks, terms, generation, epoch FROM totals").get)


def write(connection: apsw.Connection, ids: Sequence[int], vectors: NDArray[np.float32]) -> None:
    """Store vectors, float32 (n, dim), under ids that have none."""
    rows = zip(ids, (vector.astype("<f4").tobytes() for vector in vectors), strict=True)
    connection.executemany("INSERT INTO vectors (id, embedding) VALUES (?, ?)", rows)
    _change_signs(connection, dict(zip(ids, (row.tobytes() for row in pack(vectors)), strict=True)))


def delete(connection: apsw.Connection, ids: Sequence[int]) -> None:
    """Remove the vectors of these ids."""
    connection.executemany("DELETE FROM vectors WHERE id = ?", [(id,) for id in ids])
    _change_signs(connection, dict.fromkeys(ids))


def clear(connection: apsw.Connection) -> None:
    """Remove every vector."""
    connection.execute("DELETE FROM vectors")
    connection.execute("DELETE FROM signs")
    connection.execute("UPDATE totals SET generation = generation + 1, epoch = epoch + 1")


def tidy(connection: apsw.Connection) -> None:
    """Drop blocks of signs that hold nothing any more."""
    connection.execute("DELETE FROM signs WHERE members = x''")
    if connection.changes():
        connection.execute("UPDATE totals SET generation = generation + 1, epoch = epoch + 1")


def read_all(connection: apsw.Connection) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Every vector in the order of ids, some thousands at a time: ids, and float32 (n, dim)."""
    rows = iter(connection.execute("SELECT id, embedding FROM vectors ORDER BY id"))
    while some := list(itertools.islice(rows, READ_AT_ONCE)):
        content = np.frombuffer(b"".join(embedding for _, embedding in some), "<f4")
        yield [id for id, _ in some], content.reshape(len(some), -1)


def adopt_vec0(connection: apsw.Connection) -> None:
    """Take the vectors over from the vec0 table of an index made before there was a table `vectors`."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'vectors'").fetchone()
    if found is None:
        return
    connection.execute(f"INSERT INTO vectors (id, embedding) SELECT rowid, embedding FROM {found[0]}")
    for ids, vectors in read_all(connection):
        _change_signs(connection, dict(zip(ids, (row.tobytes() for row in pack(vectors)), strict=True)))
    connection.execute(f"DROP TABLE {found[0]}")
    connection.execute("DELETE FROM meta WHERE key = 'vectors'")


def differing(connection: apsw.Connection) -> int:
    """How many vectors lack their signs or have those of another one, and signs without a vector."""
    wrong = 0
    for block, members, bits in connection.execute("SELECT block, members, bits FROM signs"):
        first = block * BLOCK
        rows: list[tuple[int, bytes]] = connection.execute(  # type: ignore[assignment]
            "SELECT id, embedding FROM vectors WHERE id >= ? AND id < ?", (first, first + BLOCK)
        ).fetchall()
        right = {id: pack(np.frombuffer(embedding, "<f4")[None]).tobytes() for id, embedding in rows}
        wrong += len(set(right.items()) ^ set(_members(block, members, bits)))
    sql = "SELECT count(*) FROM vectors WHERE id / ? NOT IN (SELECT block FROM signs)"
    without: int = connection.execute(sql, (BLOCK,)).get
    return wrong + without


def _change_signs(connection: apsw.Connection, changes: dict[int, bytes | None]) -> None:
    """Write the signs of these ids, or remove those that are None, block by block."""
    if not changes:
        return
    connection.execute("UPDATE totals SET generation = generation + 1")
    generation = totals(connection).generation
    for block, ids in itertools.groupby(sorted(changes), key=lambda id: id // BLOCK):
        found = connection.execute("SELECT members, bits FROM signs WHERE block = ?", (block,)).fetchone()
        held: dict[int, bytes | None] = dict(_members(block, *found)) if found else {}
        held.update((id, changes[id]) for id in ids)
        left = [(id, bits) for id, bits in sorted(held.items()) if bits is not None]
        connection.execute(
            "INSERT OR REPLACE INTO signs (block, generation, members, bits) VALUES (?, ?, ?, ?)",
            (block, generation, bytes(id - block * BLOCK for id, _ in left), b"".join(bits for _, bits in left)),
        )


def _members(block: int, members: bytes, bits: bytes) -> Iterable[tuple[int, bytes]]:
    """The ids of a block with their signs."""
    width = len(bits) // len(members) if members else 0
    return ((block * BLOCK + at, bits[n * width : (n + 1) * width]) for n, at in enumerate(members))
