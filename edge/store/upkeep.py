"""Looking after an index: what is in it, whether it is sound, and giving back unused room."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import apsw

from edge.errors import StoreBusy, StoreFull
from edge.store.chunks import Store
from edge.store.connect import translated
from edge.store.resident import resident_bytes
from edge.store.search import EXACT_CHUNKS
from edge.store.vectors import differing, tidy, totals

WORTH_BYTES = 256 * 2**10  # less than this is not worth a rewrite of the file
WORTH_SHARE = 0.25
"""Of the file: so much free, a rewrite writes three bytes for each one that it gives back. Free pages are what counts:
documents leave whole runs of vectors, and of 100,000 with half removed, pages that are half empty hold under 1 MiB. Ids
may stay as they are: the holes in them cost a search no time (both measured, docs/deploy.md)."""
_ROOM = 2  # times the file: what is written anew lies in a temporary file and in the write-ahead log at once


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
    holes: int  # free pages in the file; what is stored next goes there
    unused_bytes: int  # what `compact` gives back at least
    compact_pays: bool
    search: str  # of vectors: "exact", or "signs" (see search.py)
    resident_bytes: int  # the most memory that the signs take during a search; 0 where it is exact


def status(store: Store, exact_chunks: int = EXACT_CHUNKS) -> Status:
    """Count what is in the index; up to `exact_chunks` are searched exactly.

    :raises StoreError: it cannot be read.
    """
    identity = store.identity
    holes, page = store._rows("SELECT freelist_count, page_size FROM pragma_freelist_count, pragma_page_size")[0]
    unused = holes * page
    chunks = totals(store.connection).chunks
    size = sum(
        file.stat().st_size for file in (store.path, store.path.with_name(store.path.name + "-wal")) if file.exists()
    )
    return Status(
        path=str(store.path),
        documents=store._rows("SELECT count(*) FROM documents")[0][0],
        chunks=chunks,
        bytes=size,
        languages=dict(store._rows("SELECT language, count(*) FROM documents GROUP BY 1 ORDER BY 2 DESC, 1")),
        types=dict(store._rows("SELECT type, count(*) FROM documents GROUP BY 1 ORDER BY 2 DESC, 1")),
        embedder=identity.embedder,
        dim=identity.dim,
        chunker=identity.chunker,
        holes=holes,
        unused_bytes=unused,
        compact_pays=_pays(store),
        search="exact" if chunks <= exact_chunks else "signs",
        resident_bytes=0 if chunks <= exact_chunks else resident_bytes(chunks, identity.dim),
    )


def compact(store: Store) -> int:
    """Merge the word index, write every page anew, and give free ones back; returns the bytes gained.

    A kill at any point leaves the index as it was or as it will be: both steps are transactions of SQLite.

    :raises StoreBusy, StoreFull: nothing is lost; VACUUM needs as much free disk as the index takes.
    """
    with translated(store.path):
        checkpoint(store.connection)
    before = store.path.stat().st_size
    with store.transaction():
        tidy(store.connection)
        store.connection.execute("INSERT INTO chunks_fts (chunks_fts) VALUES ('optimize')")
    with translated(store.path):
        store.connection.execute("VACUUM")
        checkpoint(store.connection)
    return before - store.path.stat().st_size


def compact_where_it_pays(store: Store) -> int:
    """What `compact` does, where enough is free in the file and the disk has the room; returns the bytes gained.

    For whoever changes an index with nobody watching: that another process writes, or the disk fills up, is no error.
    """
    if not _pays(store) or shutil.disk_usage(store.path.parent).free < _ROOM * store.path.stat().st_size:
        return 0
    try:
        return compact(store)
    except (StoreBusy, StoreFull):
        return 0


def _pays(store: Store) -> bool:
    holes, page = store._rows("SELECT freelist_count, page_size FROM pragma_freelist_count, pragma_page_size")[0]
    unused: int = holes * page
    return unused > max(store.path.stat().st_size * WORTH_SHARE, WORTH_BYTES)


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
    tables = {"words": "SELECT id FROM chunks_fts_docsize", "vectors": "SELECT id FROM vectors"}
    for name, ids in tables.items():
        for first, second, text in (("SELECT id FROM chunks", ids, "without"), (ids, "SELECT id FROM chunks", "only")):
            count = store._rows(f"SELECT count(*) FROM ({first} EXCEPT {second})")[0][0]
            if count:
                found.append(f"{count} chunks {text} {name}")
    with translated(store.path):
        if wrong := differing(store.connection):
            found.append(f"{wrong} vectors do not agree with their sign bits")
        counted = store._rows("SELECT count(*), coalesce(sum(terms), 0) FROM chunks")[0]
        all_ = totals(store.connection)
    if (all_.chunks, all_.terms) != counted:
        found.append(f"the totals say {all_.chunks} chunks and {all_.terms} terms, and there are {counted}")
    without = "SELECT count(*) FROM documents WHERE characters > 0 AND id NOT IN (SELECT document_id FROM pieces)"
    if lost := store._rows(without)[0][0]:
        found.append(f"{lost} documents without their text")
    return found
