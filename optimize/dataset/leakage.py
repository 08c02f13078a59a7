"""Held-out examples that training has seen: then their score says what was remembered, not what was learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from optimize.dataset.duplicates import contained, crossing, normal
from optimize.dataset.examples import Example
from optimize.dataset.rows import place_of

HELD = 0.5  # share of a held-out text's 13-word runs in training from which it counts as seen

Leak = tuple[Literal["error", "warning"], str, list[str], int]
"""Level, message, places, how many examples."""


def leaks(train: Sequence[Example], held_out: Sequence[Example]) -> Iterator[Leak]:
    """By document, by passage, by question and passage; the same question about other passages is only a warning."""
    if not train or not held_out:
        return
    shared = {example.document for example in train} & {example.document for example in held_out}
    if shared:
        count = sum(example.document in shared for example in held_out)
        message = f"{len(shared)} documents are on both sides ({count} held-out examples): split by document"
        yield "error", message, sorted(shared), count
    texts = list(dict.fromkeys(text for example in held_out if (text := supporting(example))))
    shares = dict(zip(texts, contained({text for one in train for text in texts_of(one)}, texts), strict=True))
    near = {texts[at] for _, at in crossing(list(dict.fromkeys(map(supporting, train))), texts)}
    seen = [one for one in held_out if (text := supporting(one)) and (text in near or shares[text] >= HELD)]
    if seen:
        places = [f"{place_of(one)} ({one.document})" for one in seen]
        yield "error", f"{len(seen)} held-out examples are on passages that training has too", places, len(seen)
    asked = crossing([one.question for one in train], [one.question for one in held_out])
    pairs = [(train[there], held_out[at]) for there, at in asked]
    whole = [(one, other) for one, other in pairs if not supporting(one) and not supporting(other)]
    if whole:
        message = f"{len(whole)} held-out questions without passages are asked in training too"
        yield "error", message, [_pair(*pair) for pair in whole], len(whole)
    rest = [pair for pair in pairs if pair not in whole]
    if rest:
        message = f"{len(rest)} held-out questions are asked in training too, about other passages"
        yield "warning", message, [_pair(*pair) for pair in rest], len(rest)


def texts_of(example: Example) -> list[str]:
    """Every passage, or the turns before the question."""
    return [passage.text for passage in example.passages] or [turn.content for turn in example.turns[:-1]]


def shown(example: Example) -> str:
    """All that stands before the question, as one text."""
    return "\n".join(texts_of(example))


def supporting(example: Example) -> str:
    """The passage that the answer is from, else the first: the others are there to be told apart."""
    if not example.passages:
        return ""
    return example.passages[(example.support or 1) - 1].text


def _pair(one: Example, other: Example) -> str:
    same = "=" if normal(one.question) == normal(other.question) else "~"
    return f"{place_of(other)} {same} {place_of(one)}: {other.question[:80]!r}"
