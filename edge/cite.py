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
from edge.sentences import neighbours, sentences
from edge.types import Citation, Passage

# A number with its minus ("-40" is not "40"), but not the dash of a range or a name ("12-36", "GW-200").
_NUMBER = re.compile(r"(?:(?<![\w-])[-−])?\d+(?:[.,:]\d+)*")
_SECTION = re.compile(r"^[#\s]*\d+(?:\.\d+)*\.?\s")
_KNOWN_WEIGHT = 0.2  # of a term that the question already held, against 1 for one that the answer adds
_NEXT_WEIGHT = 1 / 3  # of a term that the sentence after a quoted one holds, against 1 for one of its own
_CLOSED = re.compile(r"""[.!?…。！？]["'”’»)\]*_]*$""")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of an answer: `start` and `end` index the answer's text."""

    start: int
    end: int
    text: str
    citation: Citation | None  # None: no passage supports it


@dataclass(frozen=True, slots=True)
class _Window:
    """One sentence of a passage, or two neighbouring ones."""

    passage: Passage
    at: int  # where it begins in the chunk's text
    text: str
    sentences: int
    own: frozenset[str]  # terms of the text itself
    terms: frozenset[str]  # these, and those of the title and the headings above it
    numbers: frozenset[str]  # in the text itself
    nearby: frozenset[str]  # numbers anywhere in the passage, its title and headings
    cosine: float  # how near the question retrieval found it, or it and a neighbour; 0 where it did not look

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


_CLAIM = re.compile(r"\s*\[(\d{1,2})\]([.!?…]?)")


def cite_marked(reply: str, question: str, passages: Sequence[Passage], support: float) -> tuple[str, list[Sentence]]:
    """The answer of a model that was tuned to cite ("ten seconds [2]"), without its markers, and its sentences.

    A marker is believed where its passage holds the words before it as they are; else they are taken for a sentence
    like any other, and compared with all passages.
    """
    text, found, at = "", [], 0
    for match in [*_CLAIM.finditer(reply), None]:
        end = match.start() if match else len(reply)
        claim = reply[at:end].strip() + (match.group(2) if match else "")
        at = match.end() if match else len(reply)
        if not claim.strip(".!?… "):
            continue
        text += f" {claim}" if text else claim
        start = len(text) - len(claim)
        evidence = _stated(claim, question, passages, int(match.group(1)) if match else 0)
        if evidence is not None:
            found.append(Sentence(start, len(text), claim, evidence))
        else:
            parts = cite(claim, question, passages, support)
            found += [Sentence(start + one.start, start + one.end, one.text, one.citation) for one in parts]
    return text, found


def _stated(claim: str, question: str, passages: Sequence[Passage], marker: int) -> Citation | None:
    """The sentence of the marked passage, else of another, that holds the claim as it is, and most of the question."""
    said = _plain(claim)
    for passage in sorted(passages, key=lambda one: one.marker != marker):
        holding = [window for window in _windows(passage) if said in _plain(window.text)]
        if holding:
            asked = _by_language(question, holding)
            best = max(holding, key=lambda one: (len(asked[one.language] & one.terms), -one.sentences, -one.at))
            return _citation(best, 1.0, claim)
    return None


def _plain(text: str) -> str:
    """Words as they are compared: one space apart, between spaces, without punctuation at their ends."""
    return " " + " ".join(word.strip(".,;:!?…\"'()[]“”‘’") for word in text.casefold().split()) + " "


def quote(question: str, passages: Sequence[Passage]) -> Citation | None:
    """The sentence of the passages that answers the question best, with the one after it; None where none holds a word.

    It holds much of the question, a term counting the more the fewer sentences hold it; it stands in a passage that
    ranks high; and it is near the question, where retrieval has looked at that (`Hit.near`). The next sentence of the
    paragraph comes along because it often holds the answer ("The fuse F1 sits behind the cover. It is slow-blow.").
    """
    starts = [start for passage in passages for start in _starts(passage)]
    asked = _by_language(question, [first for first, _ in starts])
    holders = Counter(term for first, _ in starts for term in first.terms & asked[first.language])
    best, best_score, best_held = None, 0.0, 0.0
    for first, pair in starts:
        weights = {term: holders[term] ** -0.5 for term in asked[first.language] if holders[term]}
        held = sum(weight for term, weight in weights.items() if term in first.terms)
        held += _NEXT_WEIGHT * sum(w for term, w in weights.items() if term in pair.own and term not in first.terms)
        if not held:
            continue
        held /= sum(weights.values())
        hit = first.passage.hit
        score = held * (0.5 + hit.score + 0.5 * (hit.closest or 0.0)) + first.cosine
        if best is None or score > best_score:
            best, best_score, best_held = pair, score, held
    return None if best is None else _citation(best, best_held, best.text)


def _starts(passage: Passage) -> Iterator[tuple[_Window, _Window]]:
    """Each sentence of a passage, and the same with the next one of its paragraph; a heading goes with what follows."""
    windows = list(_windows(passage))
    pairs = {window.at: window for window in windows if window.sentences == 2}
    for first in (window for window in windows if window.sentences == 1):
        pair = pairs.get(first.at, first)
        ends_paragraph = "\n\n" in pair.text[len(first.text) :] and _CLOSED.search(first.text)
        yield first, first if ends_paragraph else pair


def _by_language(text: str, windows: Sequence[_Window]) -> dict[str, frozenset[str]]:
    """The content terms of a text under the stemming of each language among the windows."""
    return {language: frozenset(query(text, language).terms) for language in {w.language for w in windows}}


def _windows(passage: Passage) -> Iterator[_Window]:
    """One and two neighbouring sentences of a passage."""
    hit = passage.hit
    chunk, language = hit.chunk, hit.language
    context = " ".join((hit.title, *chunk.headings))
    above = frozenset(terms(context, language))
    nearby = frozenset(_numbers(f"{context} {chunk.text}"))
    for run in neighbours(sentences(chunk.text)):
        start, end = run[0][0], run[-1][1]
        said = " ".join(_without_section(chunk.text[a:b], chunk.headings) for a, b in run)
        own, numbers = frozenset(terms(said, language)), frozenset(_numbers(said))
        cosine = max((near.cosine for near in hit.near if near.start <= start and end <= near.end), default=0.0)
        yield _Window(passage, start, chunk.text[start:end], len(run), own, own | above, numbers, nearby, cosine)


def _without_section(sentence: str, headings: Sequence[str]) -> str:
    """A heading without its number ("10.2 Passwords"), which is no evidence for any figure; other text as it is."""
    return _SECTION.sub("", sentence) if sentence.lstrip("# ") in headings else sentence


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
    return [number.replace(",", ".").replace("−", "-") for number in _NUMBER.findall(text)]


def _citation(window: _Window, score: float, sentence: str) -> Citation:
    """The window as evidence; where the chunk is a summary, its span is what the summary stands for."""
    hit = window.passage.hit
    start, end = hit.chunk.start + window.at, hit.chunk.start + window.at + len(window.text)
    if hit.chunk.kind == "summary":
        start, end = hit.chunk.start, hit.chunk.end
    return Citation(
        marker=window.passage.marker,
        document=hit.document,
        title=hit.title,
        page=hit.chunk.page,
        start=start,
        end=end,
        text=window.text,
        score=round(score, 4),
        sentence=sentence,
    )
