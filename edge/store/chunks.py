"""The index: documents, their chunks, the chunks' terms and vectors, in one SQLite file.

A document's rows are replaced together in one transaction, so a reader, or whoever comes after a kill, sees the old
document or the new one. The rows of texts are in texts.py, of vectors in vectors.py, searching is in search.py, upkeep
in upkeep.py; all SQL of the project lives in this folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw
import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.errors import StoreMismatch, UsageError
from edge.store import texts
from edge.store import vectors as vector_tables
from edge.store.connect import connect, translated
from edge.store.migrations import migrate, require_newest
from edge.store.resident import Resident
from edge.types import Chunk, Document


@dataclass(frozen=True, slots=True)
class Identity:
    """What the rows of an index were made with; rows of two identities do not compare."""

    embedder: str  # the fingerprint of `bundle.EmbedderSection`
    dim: int
    chunker: str
    terms: str = lexical.VERSION


@dataclass(frozen=True, slots=True)
class Known:
    """What an incremental ingest compares a source with."""

    sha256: str
    settings: str
    type: str


class Store:
    """An open index. Use as a context manager; one object serves one thread at a time."""

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self.resident = Resident(connection)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        fingerprint: str | None = None,
        dim: int | None = None,
        chunker: str | None = None,
        frozen: bool = False,
    ) -> Store:
        """Open an index, or with `create` make one where there is none; what is given must be what it was made with.

        :param frozen: it is one that nobody may write to, as in a release: for reading, and not a file beside it.
        :raises StoreMissing: there is none and `create` is false.
        :raises StoreMismatch: another embedder, dimension or chunker made it; the message says how to rebuild.
        :raises StoreError: it cannot be used: see `edge.store.connect.ERRORS`.
        """
        if create and (fingerprint is None or dim is None or chunker is None):
            raise UsageError("a new index needs the embedder's fingerprint and dimension and the chunker's version")
        store = cls(connect(path, create=create, frozen=frozen), path)
        try:
            if store.connection.readonly("main"):
                require_newest(store.connection, path)
            else:
                migrate(store.connection, path)
            if create and fingerprint is not None and dim is not None and chunker is not None:
                store._establish(Identity(fingerprint, dim, chunker))
            store._compare({"embedder": fingerprint, "dim": dim, "chunker": chunker})
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        with translated(self.path):
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def identity(self) -> Identity:
        """What the rows were made with."""
        meta = self._meta()
        try:
            return Identity(meta["embedder"], int(meta["dim"]), meta["chunker"], meta["terms"])
        except KeyError as error:
            raise StoreMismatch(
                f"{self.path}: the index was never finished ({error} is missing); delete it and ingest again"
            ) from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, with the write lock from the start; inside another one it is a part of that one.

        :raises StoreBusy: another process holds the write lock for longer than the timeout.
        """
        with translated(self.path):
            is_part = self.connection.in_transaction
            self.connection.execute("SAVEPOINT part" if is_part else "BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("RELEASE part" if is_part else "COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # SQLite has rolled back all by itself where the disk is full
                    self.connection.execute("ROLLBACK TO part; RELEASE part" if is_part else "ROLLBACK")
                raise

    # -- documents ----------------------------------------------------------------------------------------------

    def replace(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        vectors: NDArray[np.float32],
        terms: Iterable[Sequence[str]],
        *,
        settings: str = "{}",
    ) -> None:
        """Store a document in place of the one of the same source, if there is one.

        `vectors` is float32 (n_chunks, dim), unit length; `terms` the index terms of each chunk, which may be made
        while they are written.

        :raises StoreBusy, StoreFull: nothing was changed.
        :raises ValueError: the sizes do not fit together.
        """
        dim = self.identity.dim
        if vectors.shape != (len(chunks), dim):
            raise ValueError(f"{len(chunks)} chunks, vectors {vectors.shape}, dimension {dim}")
        if not np.isfinite(vectors).all():
            raise ValueError(f"{document.source}: the embedder returned vectors that are not finite")
        with self.transaction():
            identifier = texts.write(self.connection, document, settings)
            old = [id for (id,) in self._rows("SELECT id FROM chunks WHERE document_id = ? ORDER BY id", identifier)]
            self._forget(old)
            self._write_chunks(identifier, chunks, vectors, terms, old)

    def remove(self, sources: Iterable[str]) -> int:
        """Remove documents by source, in one transaction; returns how many there were."""
        count = 0
        with self.transaction():
            for source in sources:
                found = self._rows("SELECT id FROM documents WHERE source = ?", source)
                for (identifier,) in found:
                    ids = [id for (id,) in self._rows("SELECT id FROM chunks WHERE document_id = ?", identifier)]
                    self._forget(ids)
                    self.connection.execute("DELETE FROM documents WHERE id = ?", (identifier,))
                    count += 1
        return count

    def known(self) -> dict[str, Known]:
        """Every stored source with what an incremental ingest compares."""
        rows = self._rows("SELECT source, sha256, settings, type FROM documents ORDER BY source")
        return {source: Known(*compared) for source, *compared in rows}

    def document(self, source: str) -> Document | None:
        """A stored document with its whole text and its blocks."""
        with translated(self.path):
            return texts.read(self.connection, source)

    def chunk_ids(self, source: str) -> list[int]:
        """The ids of a document's chunks, in reading order."""
        sql = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.source = ? ORDER BY c.ordinal"
        return [id for (id,) in self._rows(sql, source)]

    def text(self, document_id: int, start: int = 0, end: int | None = None) -> str:
        """A span of a document's extracted text, in characters; only the pieces that it touches are read."""
        with translated(self.path):
            return texts.span(self.connection, document_id, start, end)

    # -- a rebuild ----------------------------------------------------------------------------------------------

    def reset(self, identity: Identity) -> None:
        """Drop all chunks and vectors, keep the documents, and take rows of `identity` from now on.

        Meant to be the first step of a transaction that then stores every document again.
        """
        with self.transaction():
            vector_tables.clear(self.connection)
            self.connection.execute("DELETE FROM chunks")
            self.connection.execute("INSERT INTO chunks_fts (chunks_fts) VALUES ('delete-all')")
            for field in fields(Identity):
                self._set_meta(field.name, str(getattr(identity, field.name)))

    # -- inside -------------------------------------------------------------------------------------------------

    def _rows(self, sql: str, *values: apsw.SQLiteValue) -> list[tuple]:  # type: ignore[type-arg]
        with translated(self.path):
            return self.connection.execute(sql, values).fetchall()

    def _meta(self) -> dict[str, str]:
        return dict(self._rows("SELECT key, value FROM meta"))

    def _set_meta(self, key: str, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def _establish(self, identity: Identity) -> None:
        with self.transaction():
            if not self._meta():
                self.reset(identity)

    def _compare(self, wanted: dict[str, str | int | None]) -> None:
        names = {"embedder": "embedder", "dim": "embedding dimension", "chunker": "chunker", "terms": "term rules"}
        if wanted["embedder"] is not None:
            wanted = {**wanted, "terms": lexical.VERSION}
        found = {key: str(getattr(self.identity, key)) for key in names}
        other = [key for key, value in wanted.items() if value is not None and str(value) != found[key]]
        if other:
            what = ", ".join(f"{names[key]} {found[key]!r} instead of {str(wanted[key])!r}" for key in other)
            raise StoreMismatch(
                f"{self.path}: the index was made with another configuration: {what}. Run `edge index rebuild` to make "
                "it anew from the stored texts, or use the bundle and configuration that it was made with"
            )

    def _forget(self, ids: list[int]) -> None:
        vector_tables.delete(self.connection, ids)
        self.connection.executemany("DELETE FROM chunks_fts WHERE rowid = ?", [(id,) for id in ids])
        self.connection.executemany("DELETE FROM chunks WHERE id = ?", [(id,) for id in ids])

    def _write_chunks(
        self,
        document_id: int,
        chunks: Sequence[Chunk],
        vectors: NDArray[np.float32],
        terms: Iterable[Sequence[str]],
        old: list[int],
    ) -> None:
        """Write the chunks under the ids of those that they replace: ids that stay dense keep `signs` compact."""
        following = max(self._rows("SELECT coalesce(max(id), 0) FROM chunks")[0][0], *old, 0) + 1
        ids = [*old[: len(chunks)], *range(following, following + len(chunks) - len(old))]
        for id, chunk, words in zip(ids, chunks, terms, strict=True):
            self.connection.execute(
                'INSERT INTO chunks (id, document_id, ordinal, start, "end", headings, page, kind, terms, summary) '
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (id, document_id, chunk.ordinal, chunk.start, chunk.end, json.dumps(chunk.headings, ensure_ascii=False),
                 chunk.page, chunk.kind, len(words), chunk.text if chunk.kind == "summary" else None),
            )  # fmt: skip
            self.connection.execute("INSERT INTO chunks_fts (rowid, terms) VALUES (?, ?)", (id, " ".join(words)))
        vector_tables.write(self.connection, ids, vectors)
