"""Suite `retrieval`: how long a search takes and what it misses, by the size of the index.

dense    the nearest vectors, as questions are answered (`Searcher.dense`); dense_first: with nothing in memory yet
exact    the same by comparing every vector
recall   the share of the exact nearest `top_k` that `dense` finds (edge/store/recall.py)
lexical  the chunks that hold the question's words
search   all of retrieving, embedding the question included

The index itself is measured (metrics without a number), and indexes of other sizes made from it (resized.py);
`real_chunks` says how many of their chunks are as they were. Peers retrieve nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.bench.context import Context
from edge.bench.figures import Figures, rounded, spread
from edge.bench.questions import questions
from edge.bench.resized import resize
from edge.bench.result import SuiteResult
from edge.retrieve import retrieve
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.recall import measure
from edge.store.search import Searcher

NAME = "retrieval"
_BY_SIZE = ("dense", "exact", "lexical", "search")


@dataclass(frozen=True, slots=True)
class Query:
    text: str
    words: list[str]  # index terms, of every language of the index
    vector: NDArray[np.float32]  # (dim,)


def run(context: Context) -> SuiteResult:
    """Measure ours."""
    box, settings = context.box, context.config.retrieval
    asked = questions(box.store, settings.queries, context.random(NAME), context.config.rag.questions_file)
    languages = Searcher(box.store).languages()
    queries = [Query(text, _words(text, languages), box.embedder.embed_query(text)) for text in asked]
    suite = SuiteResult(samples={"questions": asked})
    recall_at = f"recall_at_{settings.top_k}"
    rows = [_measure(context, box.store, queries, recall_at)]
    suite.metrics |= rows[0]
    rows[0] = {**rows[0], "real_chunks": rows[0]["index_chunks"]}
    for chunks in settings.index_chunks:
        made = resize(box.store, context.scratch / f"index-{chunks}.db", chunks, context.config.seed)
        with made.store:
            row = _measure(context, made.store, queries, recall_at)
        made.store.path.unlink()
        suite.metrics |= {f"{name}_{chunks}_sec_p50": row[f"{name}_sec_p50"] for name in _BY_SIZE}
        suite.metrics[f"{recall_at}_{chunks}"] = row[recall_at]
        rows.append({**row, "real_chunks": made.real_chunks})
    suite.series["by_index_chunks"] = sorted(rows, key=lambda row: row["index_chunks"] or 0)
    return suite


def _measure(context: Context, store: Store, queries: Sequence[Query], recall_at: str) -> Figures:
    """Times and recall of all queries on one index."""
    box, settings = context.box, context.config.retrieval
    chunks = Searcher(store).statistics().chunks
    first = _timed(Searcher(store).dense, queries[0].vector, settings.top_k, Filter())
    vectors = measure(store, np.stack([query.vector for query in queries]), depth=settings.top_k)
    lexical_sec, search_sec = [], []
    for query in context.track(queries, f"retrieval, {chunks} chunks"):
        lexical_sec.append(_timed(Searcher(store).lexical, query.words, box.config.retrieve.depth, Filter()))
        search_sec.append(_timed(retrieve, query.text, store, box.embedder, box.config.retrieve))
    return {
        "index_chunks": chunks,
        "index_file_bytes": store.path.stat().st_size,
        **spread("dense_sec", vectors.search_sec, (50, 95)),
        **spread("exact_sec", vectors.exact_sec),
        **spread("lexical_sec", lexical_sec, (50, 95)),
        **spread("search_sec", search_sec, (50, 95)),
        "dense_first_sec": rounded(first),
        recall_at: rounded(vectors.recall),
    }


def _timed(work: Callable[..., object], *args: object) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


def _words(text: str, languages: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(term for language in languages for term in lexical.query(text, language).terms))
