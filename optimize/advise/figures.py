"""Rows to cells with 95% intervals, and the arms against each other on the same questions (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, stdev

from optimize import scores
from optimize.advise.arms import NAMES, Name, Row


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure; where it is a mean over questions, with the interval that holds it with 95%."""

    value: float | None  # None: there was nothing to measure it on
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What an arm costs besides answering."""

    build_sec: float  # to make what is shipped, on this machine
    ship_bytes: int  # to a box
    update_sec: float | None  # after a tenth of the documents changed
    update_bytes: int


@dataclass(frozen=True, slots=True)
class Column:
    """One arm's figures; shares are 0..1."""

    questions: int
    f1: Cell  # over all questions, as SQuAD 2.0: an abstention is right where there is no answer
    em: Cell
    answered_f1: Cell  # over the questions that have an answer
    grounded: Cell  # of the answers given, those whose every sentence rests on a cited span
    abstained: Cell  # of all questions
    abstention_right: Cell  # of the abstentions, those on questions without an answer
    sec_p50: float
    sec_p95: float
    rss_peak_bytes: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Difference:
    """F1 of the second arm less the first's, on the same questions."""

    first: Name
    second: Name
    questions: int
    value: float
    low: float
    high: float
    needed: int  # questions of which this difference, or MARGIN if it is smaller, could be told from chance


MARGIN = 0.02
"""Differences of F1 below this one matter to nobody."""


def column(rows: Sequence[Row], cost: Cost) -> Column:
    """:raises ValueError: no question was asked."""
    if not rows:
        raise ValueError("an arm needs at least one question")
    seconds = sorted(row.seconds for row in rows)
    return Column(
        questions=len(rows),
        f1=_mean(rows, lambda row: row.f1),
        em=_mean(rows, lambda row: row.em),
        answered_f1=_mean([row for row in rows if row.answerable], lambda row: row.f1),
        grounded=_mean([row for row in rows if not row.abstained], lambda row: float(row.grounded)),
        abstained=_mean(rows, lambda row: float(row.abstained)),
        abstention_right=_mean([row for row in rows if row.abstained], lambda row: float(not row.answerable)),
        sec_p50=median(seconds),
        sec_p95=seconds[min(len(seconds) - 1, math.ceil(0.95 * len(seconds)) - 1)],
        rss_peak_bytes=max(row.rss_peak_bytes for row in rows),
        cost=cost,
    )


def differences(rows: Mapping[Name, Sequence[Row]]) -> dict[tuple[Name, Name], Difference]:
    """Of each two arms that were asked, the one that takes less first."""
    names = [name for name in NAMES if name in rows]
    return {
        (first, second): difference(first, second, rows[first], rows[second])
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    }


def difference(first: Name, second: Name, one: Sequence[Row], other: Sequence[Row]) -> Difference:
    """A paired bootstrap over the questions (optimize.scores.compare).

    :raises ValueError: the two were not asked the same questions.
    """
    if [row.id for row in one] != [row.id for row in other]:
        raise ValueError("both need the same questions")
    found = scores.compare([row.f1 for row in one], [row.f1 for row in other])
    spread = stdev([b.f1 - a.f1 for a, b in zip(one, other, strict=True)]) if len(one) > 1 else 1.0
    needed = math.ceil((1.96 * spread / max(MARGIN, abs(found.difference))) ** 2)
    return Difference(first, second, found.questions, found.difference, found.low, found.high, needed)


def _mean(rows: Sequence[Row], value: Callable[[Row], float]) -> Cell:
    values = [value(row) for row in rows]
    return Cell(sum(values) / len(values), *scores.interval(values)) if values else Cell(None)
