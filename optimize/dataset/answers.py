"""Answers beside their questions and passages: contradictions, ends cut off, words that no passage holds. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from optimize.dataset.duplicates import normal
from optimize.dataset.examples import Example
from optimize.dataset.leakage import shown
from optimize.dataset.rows import place_of, plain

Support = Literal["verbatim", "words", "none"]
_HELD = 0.75  # least share of an answer's words in one passage for an answer in other words
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_WORDS = 8  # from so many words on, an answer with a verb in it is taken for a sentence, which has an end
_DANGLING_WORDS = (
    "a an the and or of to in on at by for with from that which than is are was were "
    "der die das ein eine und oder von im am für dass ist sind war"
)
_DANGLING = frozenset(_DANGLING_WORDS.split())
_ENDS = re.compile(r"[.!?…:;%)\]\"'”’»。！？]$")


def conflicts(examples: Sequence[Example]) -> list[str]:
    """Questions on the same passages, one without an answer beside one with, or two that share no word's meaning.

    Answers of which one holds the other, or that share half of their words, are two ways to say one thing; a question
    without passages may have many answers.
    """
    same: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        if example.passages:
            same[normal(example.question), plain(shown(example))].append(example)
    found: list[str] = []
    for group in same.values():
        first = group[0]
        for other in group[1:]:
            if not _agree(first, other):
                found.append(f"{place_of(first)} and {place_of(other)}: {_said(first)} or {_said(other)}")
                break
    return found


def _agree(one: Example, other: Example) -> bool:
    if not one.answers or not other.answers:
        return bool(one.answers) == bool(other.answers)
    return any(_alike(normal(a), normal(b)) for a in one.answers for b in other.answers)


def _alike(one: str, other: str) -> bool:
    if f" {one} " in f" {other} " or f" {other} " in f" {one} ":
        return True
    words, others = set(one.split()), set(other.split())
    return 2 * len(words & others) >= min(len(words), len(others)) > 0


def _said(example: Example) -> str:
    if not example.answers:
        return "no answer"
    text = example.answers[0]
    return repr(text if len(text) <= 40 else text[:39] + "…")


def cut_off(example: Example) -> str | None:
    """Why the answer looks cut off, or None: within a word of its passage, or at a word that nothing ends with."""
    answer = example.answers[0].rstrip()
    if answer.endswith(("-", ",", "…", "...")) and len(answer) > 1:
        return f"ends with {answer[-1]!r}: …{answer[-30:]!r}"
    words = answer.split()
    last = words[-1].strip(".,;:!?\"')").casefold() if words else ""
    if len(words) >= _SENTENCE_WORDS and last in _DANGLING and not _ENDS.search(answer):
        return f"ends with {words[-1]!r}"
    for passage in example.passages:
        ends = [match.span() for match in re.finditer(re.escape(answer), passage.text)]
        if ends:
            whole = any(
                not _within_word(passage.text, start) and not _within_word(passage.text, end) for start, end in ends
            )
            return None if whole else f"begins or ends within a word of its passage: {answer[-40:]!r}"
    return None


def _within_word(text: str, at: int) -> bool:
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if before.isdigit() != after.isdigit():
        return False  # "5kg" is a number and its unit
    return before.isalnum() and after.isalnum() and before.isascii() and after.isascii()


def support(example: Example) -> Support:
    """Whether a passage holds the answer: word for word, or most of its words and all of its numbers, or not.

    Where several answers are accepted, the first counts: it is what is trained on.
    """
    answer = example.answers[0]
    wanted, words = plain(answer), set(normal(answer).split())
    numbers = set(_NUMBER.findall(answer))
    best: Support = "none"
    for passage in example.passages:
        text = f"{passage.heading}\n{passage.text}"
        if wanted in plain(text):
            return "verbatim"
        held = len(words & set(normal(text).split()))
        if words and held >= _HELD * len(words) and numbers <= set(_NUMBER.findall(text)):
            best = "words"
    return best
