"""Citations, found after generation: each sentence of the answer is aligned with the packed passages (pure).

The model is not asked to cite: a small one cites at random. Instead every sentence of its answer is compared with every
window of one or two sentences of every passage, and the window that holds the sentence's content is its evidence. A
sentence that no window holds stays without a citation and is marked as unsupported.

What counts is what the answer adds: terms that the question already held say little ("The reset button is held for
*ten seconds*"), so they weigh a fifth, and a sentence that only repeats the question is not supported by anything. A
number that the answer adds must stand in the window, one that it repeats from the question in the passage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge.lexical import query, terms
from edge.sentences import sentences
from edge.types import Citation, Passage

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_KNOWN_WEIGHT = 0.2  # of a term that the question already held, against 1 for one that the answer adds


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of an answer: `start` and `end` index the answer's text."""

    start: int
    end: int
    text: str
    citation: Citation | None  # None: no passage supports it


@dataclass(frozen=True, slots=True)
class _Window:
    passage: Passage
    start: int  # in the document's text
    end: int
    text: str
    own: frozenset[str]  # terms of the text itself
    terms: frozenset[str]  # these, and those of the title and the headings above it
    numbers: frozenset[str]  # in the text itself
    nearby: frozenset[str]  # numbers anywhere in the passage, its title and headings
    sentences: int

    @property
    def language(self) -> str:
        return self.passage.hit.language


def cite(answer: str, question: str, passages: Sequence[Passage], support: float) -> list[Sentence]:
    """The sentences of `answer`, each with its best evidence where that reaches `support` (0..1)."""
    windows = [window for passage in passages for window in _windows(passage)]
    return [
        Sentence(start, end, answer[start:end], _evidence(answer[start:end], question, windows, support))
        for start, end in sentences(answer)
    ]


def quote(question: str, passages: Sequence[Passage]) -> Citation | None:
    """The sentence of the passages that holds most of the question, with the one after it; None where none holds any.

    A term counts the more the fewer sentences hold it, and a passage's score carries over to its sentences. The next
    sentence comes along because it often holds the answer ("The fuse F1 sits behind the cover. It is slow-blow.").
    """
    windows = [window for passage in passages for window in _windows(passage)]
    single = [window for window in windows if window.sentences == 1]
    asked = _by_language(question, single)
    holders = Counter(term for window in single for term in window.terms & asked[window.language])
    best, best_score = None, 0.0
    for window in single:
        weights = {term: holders[term] ** -0.5 for term in asked[window.language] if holders[term]}
        held = sum(weight for term, weight in weights.items() if term in window.terms)
        score = held / (sum(weights.values()) or 1.0) * (0.5 + 0.5 * window.passage.hit.score)
        if score > best_score:
            best, best_score = window, score
    if best is None:
        return None
    pairs = (w for w in windows if w.sentences == 2 and w.passage is best.passage and w.start == best.start)
    chosen = next(pairs, best)
    return _citation(chosen, best_score, chosen.text)


def _by_language(text: str, windows: Sequence[_Window]) -> dict[str, frozenset[str]]:
    """The content terms of a text under the stemming of each language among the windows."""
    return {language: frozenset(query(text, language).terms) for language in {w.language for w in windows}}


def _windows(passage: Passage) -> Iterator[_Window]:
    """One and two neighbouring sentences of a passage; a summary chunk's own text stands for its span."""
    chunk, language = passage.hit.chunk, passage.hit.language
    spans = sentences(chunk.text)
    context = " ".join((passage.hit.title, *chunk.headings))
    above = frozenset(terms(context, language))
    nearby = frozenset(_numbers(f"{context} {chunk.text}"))
    for size in (1, 2):
        for first, last in zip(spans, spans[size - 1 :], strict=False):
            text = chunk.text[first[0] : last[1]]
            start, end = chunk.start + first[0], chunk.start + last[1]
            if chunk.kind == "summary":
                start, end = chunk.start, chunk.end
            own = frozenset(terms(text, language))
            yield _Window(passage, start, end, text, own, own | above, frozenset(_numbers(text)), nearby, size)


def _evidence(sentence: str, question: str, windows: Sequence[_Window], support: float) -> Citation | None:
    asked, said = _by_language(question, windows), _by_language(sentence, windows)
    numbers = frozenset(_numbers(sentence))
    repeated = numbers & frozenset(_numbers(question))
    best, best_rank, best_held = None, (0.0, 0), 0.0
    for window in windows:
        known = asked[window.language]
        if not (numbers - repeated <= window.numbers and repeated <= window.nearby):
            continue
        held = _held(said[window.language], known, window)
        if held < support:
            continue
        context = len(known & window.terms) / max(1, len(known))
        # The second sentence of a window must earn its place; the passage's rank only breaks ties.
        rank = (held + 0.5 * context - 0.15 * (window.sentences - 1), -window.passage.marker)
        if best is None or rank > best_rank:
            best, best_rank, best_held = window, rank, held
    return None if best is None else _citation(best, best_held, sentence)


def _held(said: frozenset[str], asked: frozenset[str], window: _Window) -> float:
    """The weighted share of the sentence's content terms that the window holds, 0..1.

    What the answer adds must stand in the text itself; what the question held may stand in the title or a heading.
    """
    if said <= asked:
        return 0.0
    held = len((said - asked) & window.own) + _KNOWN_WEIGHT * len(said & asked & window.terms)
    return held / (len(said - asked) + _KNOWN_WEIGHT * len(said & asked))


def _numbers(text: str) -> list[str]:
    return [number.replace(",", ".") for number in _NUMBER.findall(text)]


def _citation(window: _Window, score: float, sentence: str) -> Citation:
    hit = window.passage.hit
    return Citation(
        marker=window.passage.marker,
        document=hit.document,
        title=hit.title,
        page=hit.chunk.page,
        start=window.start,
        end=window.end,
        text=window.text,
        score=round(score, 4),
        sentence=sentence,
    )
