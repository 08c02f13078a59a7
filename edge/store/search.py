"""Reading the index for a question: nearest vectors, chunks that hold the words, and what scoring needs of them.

Up to EXACT_CHUNKS chunks, every vector is compared. Above, the sign bits in memory (resident.py) say which some hundred
vectors are compared, so that a search reads less than a megabyte of the file, and not every vector.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.store.chunks import Store
from edge.store.connect import translated
from edge.store.filters import Filter
from edge.store.vectors import totals
from edge.types import Chunk

EXACT_CHUNKS = 5000
"""An index or a selection of so many chunks is searched exactly: chosen by measuring, docs/decisions.md."""


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk with what an answer shows of its document."""

    id: int
    document: str
    title: str
    type: str
    language: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Statistics:
    """What BM25 needs to know of all chunks."""

    chunks: int
    mean_terms: float


class Searcher:
    """The read side of a store. Wrap the calls of one question in `snapshot`: writers go on, the reader sees none."""

    def __init__(self, store: Store, exact_chunks: int = EXACT_CHUNKS) -> None:
        self._store = store
        self._exact_chunks = exact_chunks

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        connection = self._store.connection
        with translated(self._store.path):
            if connection.in_transaction:
                yield
                return
            connection.execute("BEGIN")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    def dense(self, vector: NDArray[np.float32], depth: int, where: Filter) -> list[tuple[int, float]]:
        """The chunks nearest to a vector, float32 (dim,), with their cosine, best first. The filter comes first."""
        if self.statistics().chunks <= self._exact_chunks:
            return self.exact(vector, depth, where)
        allowed = self._selected(where) if where else None
        if allowed is not None and len(allowed) <= self._exact_chunks:
            return self._nearest(vector, depth, *_listed("id", allowed))
        resident = self._store.resident
        with translated(self._store.path):
            resident.refresh()
        return self._nearest(vector, depth, *_listed("id", resident.nearest(vector, depth, allowed)))

    def exact(self, vector: NDArray[np.float32], depth: int, where: Filter) -> list[tuple[int, float]]:
        """What `dense` returns, by comparing every vector that the filter leaves."""
        return self._nearest(vector, depth, *_allowed("id", where))

    def lexical(self, terms: Sequence[str], depth: int, where: Filter) -> list[int]:
        """The chunks that hold any of the terms, best BM25 first. The filter comes first."""
        if not terms:
            return []
        allowed, values = _allowed("+chunks_fts.rowid", where)
        rows = self._store._rows(
            f"SELECT rowid FROM chunks_fts WHERE chunks_fts MATCH ?{allowed} ORDER BY rank LIMIT ?",
            " OR ".join(_quote(term) for term in terms), *values, depth,
        )  # fmt: skip
        return [id for (id,) in rows]

    def cosines(self, vector: NDArray[np.float32], ids: Iterable[int]) -> dict[int, float]:
        """The cosine of a vector, float32 (dim,), and each of the chunks."""
        return dict(self._nearest(vector, -1, *_listed("id", ids)))

    def frequencies(self, phrases: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
        """In how many chunks each phrase, a run of terms, occurs."""
        sql = "SELECT count(*) FROM chunks_fts WHERE chunks_fts MATCH ?"
        return {phrase: self._store._rows(sql, _quote(" ".join(phrase)))[0][0] for phrase in phrases}

    def statistics(self) -> Statistics:
        with translated(self._store.path):
            all_ = totals(self._store.connection)
        return Statistics(all_.chunks, all_.terms / max(all_.chunks, 1))

    def languages(self) -> list[str]:
        """The languages of the documents."""
        # One look into the index of languages for each of them, instead of reading all of it.
        sql = (
            "WITH RECURSIVE found (language) AS (SELECT min(language) FROM documents UNION ALL "
            "SELECT (SELECT min(language) FROM documents WHERE language > found.language) FROM found "
            "WHERE found.language IS NOT NULL) SELECT language FROM found WHERE language IS NOT NULL"
        )
        return [language for (language,) in self._store._rows(sql)]

    def found(self, ids: Iterable[int]) -> dict[int, Found]:
        """The chunks of these ids, with their text."""
        condition, values = _listed("c.id", ids)
        rows = self._store._rows(
            "SELECT c.id, c.document_id, d.source, d.title, d.type, d.language, c.ordinal, c.start, c.\"end\", "
            "c.headings, c.page, c.kind, c.summary FROM chunks c JOIN documents d ON d.id = c.document_id "
            f"WHERE TRUE{condition}",
            *values,
        )  # fmt: skip
        result: dict[int, Found] = {}
        for id, document_id, source, title, type_, language, ordinal, start, end, headings, page, kind, summary in rows:
            text = summary if summary is not None else self._store.text(document_id, start, end)
            chunk = Chunk(ordinal, start, end, text, tuple(json.loads(headings)), page, kind)
            result[id] = Found(id, source, title, type_, language, chunk)
        return result

    def _nearest(
        self, vector: NDArray[np.float32], depth: int, condition: str, values: list[str]
    ) -> list[tuple[int, float]]:
        rows = self._store._rows(
            f"SELECT id, vec_distance_cosine(embedding, ?) AS distance FROM vectors WHERE TRUE{condition} "
            "ORDER BY distance, id LIMIT ?",
            vector.astype("<f4").tobytes(), *values, depth,
        )  # fmt: skip
        return [(id, 1.0 - distance) for id, distance in rows]

    def _selected(self, where: Filter) -> NDArray[np.int64]:
        """The ids of the chunks that a filter leaves, ascending."""
        condition, values = where.sql()
        rows = self._store._rows(
            "SELECT group_concat(chunks.id) FROM documents CROSS JOIN chunks ON chunks.document_id = documents.id "
            f"WHERE {condition}", *values,
        )  # fmt: skip
        listed = rows[0][0]  # one text: a row for each would take three times as long
        return np.sort(np.fromstring(listed, np.int64, sep=",")) if listed else np.empty(0, np.int64)


def _allowed(column: str, where: Filter) -> tuple[str, list[str]]:
    if not where:
        return "", []
    condition, values = where.sql()
    chosen = f"SELECT chunks.id FROM chunks JOIN documents ON documents.id = chunks.document_id WHERE {condition}"
    return f" AND {column} IN ({chosen})", values


def _listed(column: str, ids: Iterable[int]) -> tuple[str, list[str]]:
    return f" AND {column} IN (SELECT value FROM json_each(?))", [json.dumps([int(id) for id in ids])]


def _quote(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
