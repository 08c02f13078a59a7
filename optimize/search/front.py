"""Which candidates are worth looking at, and which one is picked (pure).

A candidate is good enough where the lower end of the 95% interval of its F1 less that of fp32, by a paired bootstrap
over questions (optimize.scores.compare), is not below minus the loss allowed: a non-inferiority test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optimize import scores

State = Literal["keeps", "loses", "unclear"]
"""keeps: the whole interval is above what may be lost; loses: the whole interval is below; unclear: neither."""

_Z = 1.959964  # of the normal distribution, two-sided 95%
_ROUNDING = 1e-9  # sums of the same scores in another order differ by less


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate as the front sees it."""

    name: str
    bytes: int
    private_bytes: int
    f1: float  # 0..1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the questions say about one candidate."""

    state: State
    comparison: scores.Comparison  # candidate less fp32
    enough: bool  # there were as many questions as the search asks for
    needed_questions: int | None  # see `needed_questions`


@dataclass(frozen=True, slots=True)
class Pick:
    """The candidate picked, or None, and why, for a person."""

    name: str | None
    why: str


def judge(
    reference: Sequence[float],
    candidate: Sequence[float],
    *,
    max_loss: float,
    min_questions: int,
    rounds: int = scores.ROUNDS,
) -> Verdict:
    """Whether a candidate keeps F1, from both sides' scores of the same questions.

    :raises ValueError: the two were not asked the same number of questions, or none.
    """
    comparison = scores.compare(reference, candidate, rounds=rounds)
    state: State = "unclear"
    if comparison.low >= -max_loss - _ROUNDING:
        state = "keeps"
    elif comparison.high < -max_loss - _ROUNDING:
        state = "loses"
    differences = [b - a for a, b in zip(reference, candidate, strict=True)]
    needed = needed_questions(differences, max_loss=max_loss, min_questions=min_questions)
    return Verdict(state, comparison, len(differences) >= min_questions, needed)


def needed_questions(differences: Sequence[float], *, max_loss: float, min_questions: int) -> int | None:
    """How many questions would show that no more than `max_loss` is lost, were the difference as it was measured.

    From the normal approximation of the interval's lower end, mean - 1.96 sd / sqrt(n) >= -max_loss. None: more is lost
    as measured, so no number would show it.
    """
    mean = sum(differences) / len(differences)
    room = mean + max_loss
    if room <= _ROUNDING:
        return None
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    return max(min_questions, math.ceil((_Z * spread / room) ** 2))


def pareto(points: Sequence[Point]) -> list[str]:
    """Names of those that no other beats in size and F1 at once, smallest first."""
    kept = [point for point in points if not any(_dominates(other, point) for other in points)]
    return [point.name for point in sorted(kept, key=lambda point: (point.bytes, point.f1, point.name))]


def pick(points: Sequence[Point], verdicts: Mapping[str, Verdict], *, allow_few: bool = False) -> Pick:
    """The smallest candidate, by bytes and then by private memory, that keeps F1.

    :param verdicts: of each point by name.
    :param allow_few: pick on fewer questions than the search asks for.
    """
    order = sorted(points, key=lambda point: (point.bytes, point.private_bytes, point.name))
    if not order:
        return Pick(None, "no candidate could be built")
    few = next((v for v in verdicts.values() if not v.enough), None)
    keeping = [point.name for point in order if verdicts[point.name].state == "keeps"]
    if few is not None and not allow_few:
        needed = [v.needed_questions for v in verdicts.values() if v.needed_questions is not None]
        said = f"about {min(needed)} or more" if needed else "more"
        return Pick(
            None,
            f"inconclusive: {few.comparison.questions} questions with an answer are too few to tell one candidate from "
            f"another; it would take {said}. Ask more, or pick all the same with --allow-few",
        )
    if keeping:
        found = verdicts[keeping[0]].comparison
        return Pick(
            keeping[0],
            f"the smallest whose F1 is not worse: it differs from fp32 by {found.difference:+.3f}, "
            f"95% between {found.low:+.3f} and {found.high:+.3f} over {found.questions} questions",
        )
    return Pick(None, _why_none(order, verdicts))


def _why_none(order: Sequence[Point], verdicts: Mapping[str, Verdict]) -> str:
    unclear = [(verdicts[p.name].needed_questions, p.name) for p in order if verdicts[p.name].state == "unclear"]
    reachable = [(needed, name) for needed, name in unclear if needed is not None]
    if reachable:
        needed, name = min(reachable)
        return (
            "inconclusive: no interval lies above what may be lost. Closest to being shown good enough is "
            f"{name!r}: if it differs as measured, that would take about {needed} questions"
        )
    if unclear:
        return "no candidate keeps F1 as measured, though the intervals of some leave it open"
    return "every candidate loses more F1 than allowed"


def _dominates(one: Point, other: Point) -> bool:
    no_worse = one.bytes <= other.bytes and one.f1 >= other.f1
    return no_worse and (one.bytes < other.bytes or one.f1 > other.f1)
