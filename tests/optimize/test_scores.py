from __future__ import annotations

import random

import pytest

from optimize.scores import compare, exact, f1


@pytest.mark.parametrize(
    ("predicted", "accepted", "em", "score"),
    [
        ("The 12 seconds.", ["12 seconds"], 1, 1),
        ("twelve seconds", ["12 seconds", "Twelve  seconds!"], 1, 1),
        ("12 seconds long", ["12 seconds"], 0, 0.8),
        ("red", ["blue"], 0, 0),
        ("", ["blue"], 0, 0),
        ("", [], 1, 1),  # an abstention, rightly
        ("blue", [], 0, 0),
        ("the", ["a"], 1, 1),  # nothing is left of either
        ("red red blue", ["red"], 0, 0.5),  # a word counts as often as both have it
    ],
)
def test_as_the_official_evaluation_scores(predicted: str, accepted: list[str], em: float, score: float) -> None:
    assert exact(predicted, accepted) == em
    assert f1(predicted, accepted) == pytest.approx(score)


def test_a_clear_difference_is_certain_and_a_chance_one_is_not() -> None:
    rng = random.Random(0)
    first = [rng.random() for _ in range(300)]
    better = compare(first, [value + rng.gauss(0.1, 0.2) for value in first])
    assert 0 < better.low < better.difference < better.high and better.p < 0.001
    same = compare(first, [value + rng.gauss(0, 0.2) for value in first])
    assert same.low < 0 < same.high and same.p > 0.05
    assert compare(first, first).p == 1  # no better is not better


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(1)
    held = 0
    for _ in range(100):
        first = [0.0] * 60
        second = [rng.gauss(0.2, 1.0) for _ in range(60)]
        found = compare(first, second, rounds=400)
        held += found.low <= 0.2 <= found.high
    assert held >= 86  # of 100, at 95%


def test_both_must_have_been_asked_the_same() -> None:
    for first, second in (([], []), ([1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="same questions"):
            compare(first, second)
