"""What a search asks: questions to choose by, and questions on other documents to confirm the choice with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.errors import DatasetError, UsageError
from optimize import dataset
from optimize.dataset.examples import Example
from optimize.dataset.splits import digest_of


@dataclass(frozen=True, slots=True)
class Questions:
    """Two sides that share no document, and everything that is searched for their answers."""

    passages: tuple[Example, ...]  # whose passages are indexed
    validation: tuple[Example, ...]
    test: tuple[Example, ...]

    def described(self) -> dict[str, Any]:
        """Which documents and questions stand on which side, as the result keeps it."""
        sides = (("validation", self.validation), ("test", self.test))
        return {name: _side(side) for name, side in sides} | {"searched_sha256": digest_of(self.passages)}


def divide(
    everything: Sequence[Example],
    held_out: Sequence[Example],
    test: Sequence[Example] | None,
    *,
    share: float,
    seed: int,
    limit: int | None = None,
) -> Questions:
    """Validation and test questions.

    :param everything: whose passages are searched, besides those of `test`.
    :param held_out: what may be asked; without `test` a share of its documents is kept apart for it.
    :param test: questions of their own to confirm with.
    :param limit: at most so many questions on each side, drawn with `seed`.
    :raises DatasetError: one side has no question with an answer, or there is only one document to divide.
    :raises UsageError: a document is on both sides.
    """
    asked = _asked(held_out)
    if test is None:
        made = dataset.split(asked, held_out=share, seed=seed)
        validation, confirming = made.train, made.held_out
    else:
        validation, confirming = tuple(asked), tuple(_asked(test))
        if both := sorted({one.document for one in validation} & {one.document for one in confirming}):
            raise UsageError(
                f"{len(both)} documents are in both the questions to choose by and those of --test "
                f"({', '.join(both[:3])}): a pick is confirmed on documents that it was not chosen by"
            )
    sides = [_drawn(side, limit, seed) for side in (validation, confirming)]
    for side, name in zip(sides, ("to choose by", "to confirm with"), strict=True):
        if not any(one.answers for one in side):
            raise DatasetError(f"there is no question {name} that has an answer: add some, on other documents too")
    searched = dict.fromkeys([*everything, *(test or ())])
    return Questions(tuple(searched), *sides)


def trained_on(asked: Sequence[Example], training: Sequence[str]) -> list[str]:
    """Documents that are asked about and were trained on, by name: the answers to those say less."""
    return sorted({one.document for one in asked} & set(training))


def _asked(examples: Sequence[Example]) -> list[Example]:
    """Those that a box can be asked: a question on passages, not a conversation."""
    return [one for one in examples if one.question and one.passages and not one.turns]


def _drawn(side: Sequence[Example], limit: int | None, seed: int) -> tuple[Example, ...]:
    if limit is None or limit >= len(side):
        return tuple(side)
    return tuple(random.Random(seed).sample(list(side), limit))


def _side(side: Sequence[Example]) -> dict[str, Any]:
    return {
        "questions": len(side),
        "answerable": sum(bool(one.answers) for one in side),
        "documents": sorted({one.document for one in side}),
        "sha256": digest_of(side),
    }
