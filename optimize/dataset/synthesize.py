"""Questions and answers from the documents of an index, without a model: made by rules, checked, marked as synthetic.

Each answer stands in its passage word for word. The other passages of a prompt are what a search by words finds for the
question besides, so they are about the same things and do not hold the answer; a question without an answer is shown
such passages of other documents only.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import lexical
from edge.errors import DatasetError
from edge.ingest.lines import without_soft_ends
from edge.prompt import heading_line
from edge.sentences import sentences
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Found, Searcher
from edge.types import Hit
from optimize.dataset.rows import plain
from optimize.dataset.rules import Candidate, questions, row_questions

_DEPTH = 24  # passages that a search by words proposes beside the right one
_HELD = 0.75  # share of a question's words in two neighbouring sentences from which they may well answer it


@dataclass(frozen=True, slots=True)
class Synthesized:
    """Lines for `dataset.read`, and what they were made of."""

    lines: tuple[str, ...]
    unanswerable: int
    documents: int
    by_rule: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A question with the chunk that answers it."""

    candidate: Candidate
    found: Found


def synthesize(
    index: Path, *, limit: int | None = None, unanswerable: float = 0.2, passages: int = 3, seed: int = 0
) -> Synthesized:
    """Make examples from an index; the same index and seed give the same ones.

    :param limit: at most so many, drawn evenly over documents; None: all.
    :param unanswerable: share of the examples, 0..1, that are shown passages of other documents.
    :param passages: in each prompt, at most.
    :raises DatasetError: no sentence of the documents fits a rule.
    :raises StoreError: the index cannot be read.
    """
    rng = random.Random(seed)
    with Store.open(index) as store:
        searcher = Searcher(store)
        with searcher.snapshot():
            pairs = _evenly(list(_distinct(_pairs(store, searcher))), limit, rng)
            if not pairs:
                raise DatasetError(
                    f"{index}: no sentence of the documents fits a rule: the rules know English and German statements "
                    "such as definitions, quantities and dates, and rows of tables. Ingest more documents"
                )
            refused = {pair.candidate.question for pair in rng.sample(pairs, round(unanswerable * len(pairs)))}
            rows = [
                _without_answer(pair, searcher, passages)
                if pair.candidate.question in refused
                else _with_answer(pair, searcher, passages, rng)
                for pair in pairs
            ]
    kept = [row for row in rows if row is not None]
    for number, row in enumerate(kept, 1):
        row["id"] = f"synthetic-{number:05}"
    return Synthesized(
        lines=tuple(json.dumps(row, ensure_ascii=False) for row in kept),
        unanswerable=sum(row["answer"] is None for row in kept),
        documents=len({row["document"] for row in kept}),
        by_rule=dict(Counter(row["rule"] for row in kept).most_common()),
    )


def _pairs(store: Store, searcher: Searcher) -> Iterator[_Pair]:
    for source in sorted(store.known()):
        ids = store.chunk_ids(source)
        found = searcher.found(ids)
        for id in ids:
            one = found[id]
            if one.chunk.kind == "text":
                yield from (_Pair(candidate, one) for candidate in _candidates(one))


def _candidates(found: Found) -> Iterator[Candidate]:
    """What a chunk answers, checked once more: the answer stands in it as it is."""
    text = found.chunk.text
    for line in text.split("\n"):
        yield from row_questions(line, found.language)
    for start, end in sentences(text):
        for candidate in questions(without_soft_ends(text[start:end]), found.language):
            if candidate.answer in text:  # not where a line ends inside it
                yield candidate


def _distinct(pairs: Iterator[_Pair]) -> Iterator[_Pair]:
    """One of each question; none of a question that the documents answer in two ways."""
    answers: dict[str, set[str]] = defaultdict(set)
    first: dict[str, _Pair] = {}
    for pair in pairs:
        key = plain(pair.candidate.question)
        answers[key].add(plain(pair.candidate.answer))
        first.setdefault(key, pair)
    return (pair for key, pair in first.items() if len(answers[key]) == 1)


def _evenly(pairs: Sequence[_Pair], limit: int | None, rng: random.Random) -> list[_Pair]:
    """At most `limit` pairs, one of each document in turn."""
    by_document: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        by_document[pair.found.document].append(pair)
    for own in by_document.values():
        rng.shuffle(own)
    chosen: list[_Pair] = []
    while any(by_document.values()) and (limit is None or len(chosen) < limit):
        for own in by_document.values():
            if own and (limit is None or len(chosen) < limit):
                chosen.append(own.pop())
    return chosen


def _with_answer(pair: _Pair, searcher: Searcher, passages: int, rng: random.Random) -> dict[str, Any]:
    others = _others(pair, searcher, elsewhere=False)[: passages - 1]
    shown = [*others]
    place = rng.randrange(len(shown) + 1)
    shown.insert(place, pair.found)
    return _row(pair, shown) | {"answer": pair.candidate.answer, "support": place + 1}


def _without_answer(pair: _Pair, searcher: Searcher, passages: int) -> dict[str, Any] | None:
    shown = _others(pair, searcher, elsewhere=True)[:passages]
    return _row(pair, shown) | {"answer": None, "unanswerable": True} if shown else None


def _row(pair: _Pair, shown: Sequence[Found]) -> dict[str, Any]:
    context = [{"heading": _heading(found), "text": found.chunk.text} for found in shown]
    return {
        "id": "", "document": pair.found.document, "question": pair.candidate.question, "context": context,
        "synthetic": True, "rule": pair.candidate.rule,
    }  # fmt: skip


def _others(pair: _Pair, searcher: Searcher, *, elsewhere: bool) -> list[Found]:
    """Chunks that a search by words finds for the question and that do not answer it, best first.

    :param elsewhere: of other documents only.
    """
    asked = lexical.query(pair.candidate.question, pair.found.language)
    ids = searcher.lexical(asked.terms, _DEPTH, Filter())
    found = searcher.found(ids)
    answer = plain(pair.candidate.answer)
    kept: list[Found] = []
    for id in ids:
        one = found[id]
        same = one.document == pair.found.document
        if one.chunk.kind != "text" or one.id == pair.found.id or (same and elsewhere):
            continue
        overlaps = same and one.chunk.start < pair.found.chunk.end and pair.found.chunk.start < one.chunk.end
        if overlaps or answer in plain(one.chunk.text) or _may_answer(one, asked.terms):
            continue
        kept.append(one)
    return kept


def _may_answer(found: Found, terms: Sequence[str]) -> bool:
    """Whether two neighbouring sentences hold most of the question's words: then they may well answer it too."""
    text = found.chunk.text
    spans = sentences(text)
    wanted = set(terms)
    for at in range(len(spans)):
        stretch = text[spans[at][0] : spans[min(at + 1, len(spans) - 1)][1]]
        if len(wanted & set(lexical.terms(stretch, found.language))) >= _HELD * len(wanted):
            return True
    return False


def _heading(found: Found) -> str:
    """The line above the passage, as `edge ask` writes it."""
    hit = Hit(found.id, found.document, found.title, found.type, found.language, found.chunk, 0.0, 0.0, 0.0)
    return heading_line(hit)
