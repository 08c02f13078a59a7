"""A question to the chunks that may answer it: dense and lexical candidates, scored alike, fused, calibrated.

Each arm proposes `depth` candidates: the nearest vectors, and the best chunks by SQLite's BM25. Every candidate then
gets both scores, whichever arm found it, and the fused score is their weighted sum. Both are absolute: a cosine, and a
BM25 divided by what a perfect chunk would get, so a question with no good chunk has no good score. Rank fusion (RRF)
throws that away, and on long documents it was worse than its better arm; docs/decisions.md has the figures.

The best few are then judged: a chunk is as good as the one or two sentences of it that answer, and its other sentences
blur its vector. So the sentences that share most terms with the question are embedded by themselves, and the nearest
one's cosine is added to the fused score.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.config import RetrieveConfig
from edge.errors import UsageError
from edge.ingest.chunk import embedding_text
from edge.rerank import Reranker, reranked
from edge.sentences import neighbours, sentences
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Found, Searcher, Statistics
from edge.types import Hit, Near

# BM25 (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework"); k1 and b as in Anserini's defaults, which
# suit chunks of like length. A pair of neighbouring question terms found side by side counts PAIR of a term of its
# rarity.
K1 = 0.9
B = 0.4
PAIR = 0.3

# Judging embeds at most JUDGED * WINDOWS short texts when the question comes.
JUDGED = 8  # best hits by fused score that are judged
WINDOWS = 3  # runs of one or two sentences that are embedded of each
NEAREST = 0.5  # weight of the nearest one's cosine, against 1 of the fused score

# Logistic regression of "this hit holds an answer" on two scores, as scripts/fit_relevance.py fits it on xquad_en_dev
# and covidqa_dev over random parts of them.
CALIBRATED = 2  # best judged hits that get a relevance: the more are asked, the likelier one of them is near by chance
RELEVANCE_BIAS = -6.68
RELEVANCE_CLOSEST = 7.87
RELEVANCE_LEXICAL = 5.38


class QueryEmbedder(Protocol):
    """What retrieval needs of an embedder; vectors have unit length."""

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Float32 (dim,)."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 (len(texts), dim)."""
        ...


@dataclass(frozen=True, slots=True)
class Weights:
    """Inverse document frequencies, for the terms and pairs of a question in one language."""

    terms: Mapping[str, float]
    pairs: Mapping[tuple[str, str], float]

    @property
    def bound(self) -> float:
        """What a chunk would get that holds every term often."""
        return (K1 + 1) * sum(self.terms.values())


def retrieve(
    question: str,
    store: Store,
    embedder: QueryEmbedder,
    config: RetrieveConfig,
    where: Filter | None = None,
    reranker: Reranker | None = None,
) -> list[Hit]:
    """The best `config.top_k` chunks for a question, best first, with their scores; see `judge` for their order.

    Chunks with the same text count once, so that copies of a file do not fill the prompt.

    :param reranker: puts the first `config.rerank.candidates` of them in another order.
    :raises UsageError: the question is empty, or too long for the reranker.
    :raises StoreError: the index cannot be read.
    """
    hits = candidates(question, store, embedder, config, where or Filter())
    hits.sort(key=lambda hit: (-hit.score, hit.document, hit.chunk.ordinal))  # not by ids: they tell what came first
    distinct = {" ".join(hit.chunk.text.split()): hit for hit in reversed(hits)}
    best = [hit for hit in hits if distinct[" ".join(hit.chunk.text.split())] is hit]
    judged = judge(best, question, embedder)
    if reranker is not None:
        judged = _calibrate(reranked(judged, question, reranker, config.rerank.candidates), question, embedder)
    return judged[: config.top_k]


def judge(hits: Sequence[Hit], question: str, embedder: QueryEmbedder) -> list[Hit]:
    """The hits, best by fused score first, in the order that their nearest sentences give the first `JUDGED` of them.

    Those have `near` and `closest`; the first `CALIBRATED` have `relevance` as well.
    """
    judged = _looked_at(hits[:JUDGED], question, embedder)
    judged.sort(key=lambda hit: -(hit.score + NEAREST * (hit.closest or 0.0)))
    return _calibrate([*judged, *hits[JUDGED:]], question, embedder)


def _looked_at(hits: Sequence[Hit], question: str, embedder: QueryEmbedder) -> list[Hit]:
    """The hits with `near` and `closest`, in their order."""
    windows = [promising(hit.chunk.text, question, hit.language) for hit in hits]
    texts = {hit.chunk.text[a:b]: None for hit, spans in zip(hits, windows, strict=True) for a, b in spans}
    if not texts:
        return list(hits)
    vectors = embedder.embed_documents(list(texts)) @ embedder.embed_query(question)
    cosines = dict(zip(texts, map(float, vectors), strict=True))
    looked_at = []
    for hit, spans in zip(hits, windows, strict=True):
        near = tuple(Near(a, b, cosines[hit.chunk.text[a:b]]) for a, b in spans)
        looked_at.append(dataclasses.replace(hit, near=near, closest=max((n.cosine for n in near), default=-1.0)))
    return looked_at


def _calibrate(hits: list[Hit], question: str, embedder: QueryEmbedder) -> list[Hit]:
    """The hits, the first `CALIBRATED` of them with `relevance`; another order can have put any hit there."""
    first = [hit if hit.closest is not None else _looked_at([hit], question, embedder)[0] for hit in hits[:CALIBRATED]]
    rest = [dataclasses.replace(hit, relevance=None) if hit.relevance is not None else hit for hit in hits[CALIBRATED:]]
    return [*(hit if hit.closest is None else _calibrated(hit) for hit in first), *rest]


def promising(text: str, question: str, language: str) -> list[tuple[int, int]]:
    """The `WINDOWS` runs of one or two sentences that hold most of the question's terms; the first of equals. (pure)"""
    asked = frozenset(lexical.query(question, language).terms)
    held = {span: asked.intersection(lexical.terms(text[slice(*span)], language)) for span in sentences(text)}
    counts = {(run[0][0], run[-1][1]): len(set().union(*(held[span] for span in run))) for run in neighbours(held)}
    return sorted(counts, key=lambda span: -counts[span])[:WINDOWS]


def candidates(
    question: str, store: Store, embedder: QueryEmbedder, config: RetrieveConfig, where: Filter
) -> list[Hit]:
    """What either arm proposes, with all scores, in no order. See `retrieve`."""
    if not question.strip():
        raise UsageError("the question is empty")
    vector = embedder.embed_query(question)
    searcher = Searcher(store, config.exact_chunks)
    with searcher.snapshot():
        queries = {language: lexical.query(question, language) for language in searcher.languages()}
        words = list(dict.fromkeys(term for query in queries.values() for term in query.terms))
        proposed = {id for id, _ in searcher.dense(vector, config.depth, where)}
        proposed.update(searcher.lexical(words, config.depth, where))
        cosines = searcher.cosines(vector, proposed)
        found = searcher.found(proposed)
        statistics = searcher.statistics()
        phrases = {(term,) for term in words} | {pair for query in queries.values() for pair in query.pairs}
        frequencies = searcher.frequencies(sorted(phrases))
    weights = {language: weigh(query, frequencies, statistics) for language, query in queries.items()}
    return [
        _hit(chunk, cosines[id], lexical_score(index_terms(chunk), weights[chunk.language], statistics), config)
        for id, chunk in found.items()
    ]


def index_terms(found: Found) -> list[str]:
    """The terms that a chunk was indexed with."""
    return lexical.terms(embedding_text(found.title, found.chunk), found.language)


def weigh(query: lexical.Query, frequencies: Mapping[tuple[str, ...], int], statistics: Statistics) -> Weights:
    """Inverse document frequencies, of the always positive kind: ln(1 + (N - n + 0.5) / (n + 0.5)). (pure)"""

    def idf(phrase: tuple[str, ...]) -> float:
        count = min(frequencies[phrase], statistics.chunks)
        return math.log1p((statistics.chunks - count + 0.5) / (count + 0.5))

    return Weights({term: idf((term,)) for term in query.terms}, {pair: idf(pair) for pair in query.pairs})


def lexical_score(terms: Sequence[str], weights: Weights, statistics: Statistics) -> float:
    """BM25 of a chunk's terms, over its bound: 0 where no query term occurs, about 1 where all do, often. (pure)"""
    counts = Counter(term for term in terms if term in weights.terms)
    if not counts:
        return 0.0
    pairs = Counter(pair for pair in itertools.pairwise(terms) if pair in weights.pairs)
    length = K1 * (1 - B + B * len(terms) / max(statistics.mean_terms, 1.0))
    score = sum(weights.terms[term] * count / (count + length) for term, count in counts.items())
    score += PAIR * sum(weights.pairs[pair] * count / (count + length) for pair, count in pairs.items())
    return (K1 + 1) * score / weights.bound


def fuse(dense: float, lexical: float, dense_weight: float) -> float:
    """The score that orders hits: a convex combination of two absolute scores. (pure)"""
    return dense_weight * dense + (1 - dense_weight) * lexical


def _calibrated(hit: Hit) -> Hit:
    return dataclasses.replace(hit, relevance=relevance(hit.closest or 0.0, hit.lexical))


def relevance(closest: float, lexical: float) -> float:
    """The probability that a hit with these scores holds an answer, 0..1. (pure)"""
    return 1 / (1 + math.exp(-(RELEVANCE_BIAS + RELEVANCE_CLOSEST * closest + RELEVANCE_LEXICAL * lexical)))


def _hit(found: Found, dense: float, words: float, config: RetrieveConfig) -> Hit:
    return Hit(
        chunk_id=found.id,
        document=found.document,
        title=found.title,
        type=found.type,
        language=found.language,
        chunk=found.chunk,
        dense=dense,
        lexical=words,
        score=fuse(dense, words, config.dense_weight),
    )
