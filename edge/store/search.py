"""Reading the index for a question: nearest vectors, chunks that hold the words, and what scoring needs of them."""

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
from edge.types import Chunk

MAX_DEPTH = 4096  # vec0's limit for k


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

    def __init__(self, store: Store) -> None:
        self._store = store

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
        allowed, values = _allowed("rowid", where)
        rows = self._store._rows(
            f"SELECT rowid, distance FROM {self._store._vectors} WHERE embedding MATCH ? AND k = ?{allowed} "
            "ORDER BY distance",
            _blob(vector), min(depth, MAX_DEPTH), *values,
        )  # fmt: skip
        return [(id, 1.0 - distance) for id, distance in rows]

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
        rows = self._store._rows(
            f"SELECT rowid, vec_distance_cosine(embedding, ?) FROM {self._store._vectors} "
            "WHERE rowid IN (SELECT value FROM json_each(?))",
            _blob(vector), json.dumps(list(ids)),
        )  # fmt: skip
        return {id: 1.0 - distance for id, distance in rows}

    def frequencies(self, phrases: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
        """In how many chunks each phrase, a run of terms, occurs."""
        sql = "SELECT count(*) FROM chunks_fts WHERE chunks_fts MATCH ?"
        return {phrase: self._store._rows(sql, _quote(" ".join(phrase)))[0][0] for phrase in phrases}

    def statistics(self) -> Statistics:
        count, mean = self._store._rows("SELECT count(*), avg(terms) FROM chunks")[0]
        return Statistics(count, mean or 0.0)

    def languages(self) -> list[str]:
        """The languages of the documents."""
        return [language for (language,) in self._store._rows("SELECT DISTINCT language FROM documents ORDER BY 1")]

    def found(self, ids: Iterable[int]) -> dict[int, Found]:
        """The chunks of these ids, with their text."""
        rows = self._store._rows(
            "SELECT c.id, c.document_id, d.source, d.title, d.type, d.language, c.ordinal, c.start, c.\"end\", "
            "c.headings, c.page, c.kind, c.summary FROM chunks c JOIN documents d ON d.id = c.document_id "
            "WHERE c.id IN (SELECT value FROM json_each(?))",
            json.dumps(list(ids)),
        )  # fmt: skip
        result: dict[int, Found] = {}
        for id, document_id, source, title, type_, language, ordinal, start, end, headings, page, kind, summary in rows:
            text = summary if summary is not None else self._store.text(document_id, start, end)
            chunk = Chunk(ordinal, start, end, text, tuple(json.loads(headings)), page, kind)
            result[id] = Found(id, source, title, type_, language, chunk)
        return result


def _allowed(column: str, where: Filter) -> tuple[str, list[str]]:
    if not where:
        return "", []
    condition, values = where.sql()
    chosen = f"SELECT chunks.id FROM chunks JOIN documents ON documents.id = chunks.document_id WHERE {condition}"
    return f" AND {column} IN ({chosen})", values


def _blob(vector: NDArray[np.float32]) -> bytes:
    return vector.astype("<f4").tobytes()


def _quote(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
