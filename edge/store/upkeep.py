"""Looking after an index: what is in it, whether it is sound, and giving back unused room."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from edge.store.chunks import Store
from edge.store.connect import translated

WORTH_BYTES = 256 * 2**10  # less than this is not worth a rewrite of the file


@dataclass(frozen=True, slots=True)
class Status:
    """An index in numbers; `edge index status --json` prints it."""

    path: str
    documents: int
    chunks: int
    bytes: int  # of the file and its write-ahead log
    languages: dict[str, int]  # documents of each
    types: dict[str, int]
    embedder: str  # its fingerprint
    dim: int
    chunker: str
    holes: int  # slots of deleted vectors, which vec0 does not use again
    unused_bytes: int  # holes and free pages: about what `compact` gives back
    compact_pays: bool


def status(store: Store) -> Status:
    """Count what is in the index.

    :raises StoreError: it cannot be read.
    """
    identity = store.identity
    used, slots = store._slots()
    free = store._rows("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size")[0][0]
    holes = slots - used
    unused = free + holes * identity.dim * 4
    size = sum(
        file.stat().st_size for file in (store.path, store.path.with_name(store.path.name + "-wal")) if file.exists()
    )
    return Status(
        path=str(store.path),
        documents=store._rows("SELECT count(*) FROM documents")[0][0],
        chunks=store._rows("SELECT count(*) FROM chunks")[0][0],
        bytes=size,
        languages=dict(store._rows("SELECT language, count(*) FROM documents GROUP BY 1 ORDER BY 2 DESC, 1")),
        types=dict(store._rows("SELECT type, count(*) FROM documents GROUP BY 1 ORDER BY 2 DESC, 1")),
        embedder=identity.embedder,
        dim=identity.dim,
        chunker=identity.chunker,
        holes=holes,
        unused_bytes=unused,
        compact_pays=unused > max(store.path.stat().st_size // 4, WORTH_BYTES),
    )


def compact(store: Store) -> int:
    """Copy the vectors without holes, merge the word index, and give free pages back; returns the bytes gained.

    A kill at any point leaves the index as it was or as it will be: both steps are transactions of SQLite.

    :raises StoreBusy, StoreFull: nothing is lost; VACUUM needs as much free disk as the index takes.
    """
    with translated(store.path):
        checkpoint(store.connection)
    before = store.path.stat().st_size
    with store.transaction():
        store._new_vectors(store.identity.dim, copy=True)
        store.connection.execute("INSERT INTO chunks_fts (chunks_fts) VALUES ('optimize')")
    with translated(store.path):
        store.connection.execute("VACUUM")
        checkpoint(store.connection)
    return before - store.path.stat().st_size


def checkpoint(connection: apsw.Connection) -> None:
    """Move the write-ahead log into the file where no reader prevents it."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def problems(store: Store) -> list[str]:
    """Check the file and that documents, chunks, words and vectors agree; an empty list means sound."""
    found = [str(text) for (text,) in store._rows("PRAGMA integrity_check") if text != "ok"]
    found += [f"row {row} of {table} refers to nothing" for table, row, *_ in store._rows("PRAGMA foreign_key_check")]
    with translated(store.path):
        try:
            if not store.connection.readonly("main"):  # FTS5 asks for a write to check itself
                store.connection.execute("INSERT INTO chunks_fts (chunks_fts) VALUES ('integrity-check')")
        except apsw.CorruptError as error:
            found.append(f"the word index is damaged: {error}")
    tables = {"words": "SELECT id FROM chunks_fts_docsize", "vectors": f"SELECT rowid FROM {store._vectors}_rowids"}
    for name, ids in tables.items():
        for first, second, text in (("SELECT id FROM chunks", ids, "without"), (ids, "SELECT id FROM chunks", "only")):
            count = store._rows(f"SELECT count(*) FROM ({first} EXCEPT {second})")[0][0]
            if count:
                found.append(f"{count} chunks {text} {name}")
    without = "SELECT count(*) FROM documents WHERE characters > 0 AND id NOT IN (SELECT document_id FROM pieces)"
    if lost := store._rows(without)[0][0]:
        found.append(f"{lost} documents without their text")
    return found
