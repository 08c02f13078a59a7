"""The rule that picks, the front, and how many questions it takes: pure, so checked against their definitions."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.search import front
from optimize.search.front import Point, Verdict

ROUNDS = 400

points = st.lists(
    st.builds(
        Point,
        name=st.uuids().map(str),
        bytes=st.integers(1, 6),
        private_bytes=st.integers(1, 3),
        f1=st.sampled_from([0.1, 0.2, 0.3, 0.4]),
    ),
    max_size=8,
    unique_by=lambda point: point.name,
)
scores = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40
)


def judged(pairs: list[tuple[float, float]], *, max_loss: float = 0.01, min_questions: int = 1) -> Verdict:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return front.judge(first, second, max_loss=max_loss, min_questions=min_questions, rounds=ROUNDS)


KEEPS, LOSES = judged([(1.0, 1.0)] * 4), judged([(1.0, 0.0)] * 4)
FEW = judged([(1.0, 1.0)] * 3, min_questions=500)


@given(points)
def test_the_front_is_exactly_what_nothing_dominates(found: list[Point]) -> None:
    names = front.pareto(found)
    by_name = {point.name: point for point in found}
    for point in found:
        beaten = any(
            other.bytes <= point.bytes and other.f1 >= point.f1 and (other.bytes, other.f1) != (point.bytes, point.f1)
            for other in found
        )
        assert (point.name in names) == (not beaten)
    sizes = [by_name[name].bytes for name in names]
    assert sizes == sorted(sizes)
    answers = [by_name[name].f1 for name in names]
    assert answers == sorted(answers), "more bytes on the front buy more F1"
    assert bool(names) == bool(found)


@given(points, st.data())
def test_the_pick_is_the_smallest_that_keeps_f1(found: list[Point], data: st.DataObject) -> None:
    verdicts = {point.name: data.draw(st.sampled_from([KEEPS, LOSES])) for point in found}
    pick = front.pick(found, verdicts)
    good = [point for point in found if verdicts[point.name].state == "keeps"]
    if not good:
        assert pick.name is None
        return
    assert pick.name in {point.name for point in good}
    chosen = next(point for point in good if point.name == pick.name)
    assert (chosen.bytes, chosen.private_bytes) == min((point.bytes, point.private_bytes) for point in good)


@given(points)
def test_too_few_questions_pick_nothing_unless_allowed(found: list[Point]) -> None:
    verdicts = {point.name: FEW for point in found}
    pick = front.pick(found, verdicts)
    assert pick.name is None
    assert ("3 questions" in pick.why and "500" in pick.why and "--allow-few" in pick.why) or not found
    assert (front.pick(found, verdicts, allow_few=True).name is not None) == bool(found)


@given(scores)
def test_a_verdict_says_what_its_interval_says(pairs: list[tuple[float, float]]) -> None:
    verdict = judged(pairs, max_loss=0.1)
    low, high = verdict.comparison.low, verdict.comparison.high
    assert low <= high
    expected = "keeps" if low >= -0.1 - 1e-9 else "loses" if high < -0.1 - 1e-9 else "unclear"
    assert verdict.state == expected
    assert verdict.comparison.difference == pytest.approx(sum(b - a for a, b in pairs) / len(pairs))


@given(scores)
def test_the_same_answers_are_never_worse(pairs: list[tuple[float, float]]) -> None:
    same = [(first, first) for first, _ in pairs]
    verdict = judged(same, min_questions=500)
    assert verdict.state == "keeps" and not verdict.enough and verdict.needed_questions == 500


@given(scores, st.floats(0.005, 0.3), st.integers(2, 600))
def test_needed_questions_is_the_least_number_whose_interval_fits(
    pairs: list[tuple[float, float]], max_loss: float, least: int
) -> None:
    differences = [b - a for a, b in pairs]
    needed = front.needed_questions(differences, max_loss=max_loss, min_questions=least)
    mean = sum(differences) / len(differences)
    if mean + max_loss <= 1e-9:
        assert needed is None
        return
    assert needed is not None and needed >= least
    if len(differences) > 1:
        sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(differences) - 1))
        assert mean - 1.96 * sd / math.sqrt(needed) >= -max_loss - 1e-4
        if needed > least:
            assert mean - 1.96 * sd / math.sqrt(needed - 1) < -max_loss + 1e-4


def test_needed_questions_predicts_when_the_bootstrap_agrees() -> None:
    """Draw as many questions as were said to be needed: the lower end of the interval is at the loss allowed."""
    rng = random.Random(3)
    differences = [rng.choice([-1.0, 0.0, 0.0, 0.0, 0.0, 1.0]) for _ in range(400)]
    mean = sum(differences) / len(differences)
    max_loss = 0.03 - min(mean, 0.0)
    needed = front.needed_questions(differences, max_loss=max_loss, min_questions=2)
    assert needed is not None and needed > 400
    larger = (differences * math.ceil(needed / 400))[:needed]
    verdict = front.judge([0.0] * needed, larger, max_loss=max_loss, min_questions=2, rounds=ROUNDS)
    assert verdict.comparison.low == pytest.approx(-max_loss, abs=0.015)


def test_reasons_for_picking_nothing_differ() -> None:
    one = Point("a", 10, 10, 0.5)
    assert front.pick([], {}).why == "no candidate could be built"
    assert "loses more" in front.pick([one], {"a": judged([(1.0, 0.0)] * 9)}).why
    wide = judged([(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 5, max_loss=0.01)
    assert wide.state == "unclear" and wide.needed_questions is not None and wide.needed_questions > 10_000
    why = front.pick([one], {"a": wide}).why
    assert "inconclusive" in why and str(wide.needed_questions) in why
    lower = judged([(1.0, 0.0)] * 6 + [(0.0, 1.0)] * 4, max_loss=0.01)
    assert lower.state == "unclear" and lower.needed_questions is None
    assert "leave it open" in front.pick([one], {"a": lower}).why


def test_a_loss_of_just_what_is_allowed_is_kept() -> None:
    pairs = [(0.5, 0.4)] * 20
    assert judged(pairs, max_loss=0.1).state == "keeps"
    assert judged(pairs, max_loss=0.0999).state == "loses"


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions"):
        front.judge([1.0], [1.0, 0.0], max_loss=0.01, min_questions=1)
