"""Whether a tuned build is worth packaging: figures, thresholds, and the table of a refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.errors import GateError
from optimize.dataset.examples import Example, Shown
from optimize.recipe import TunedGateRecipe
from optimize.trial import Asked
from optimize.tuned_gate import chosen, figures, judge

RECIPE = TunedGateRecipe()


def side(f1: float, seconds: float = 1.0, count: int = 60) -> list[Asked]:
    one = Asked("q", True, "text", 0.0, f1, False, False, True, 0.1, 0.1, seconds)
    return [replace(one, id=str(number), f1=min(1.0, f1 + 0.01 * (number % 3))) for number in range(count)]


def test_a_build_that_answers_better_and_forgets_little_is_kept_with_its_figures() -> None:
    found = figures(0.40, 0.396, (side(0.2), side(0.6)), (100, 104))
    told = judge(found, RECIPE)
    assert told["forgetting"] == pytest.approx(0.01) and told["p"] == 0.0
    assert told["f1_low"] == pytest.approx(0.4, abs=1e-3)
    assert told["thresholds"]["forgetting"] == RECIPE.max_forgetting


@pytest.mark.parametrize(
    ("sides", "accuracy", "memory", "culprit"),
    [
        ((side(0.5), side(0.5)), 0.40, (100, 100), "p "),
        ((side(0.5), side(0.4)), 0.40, (100, 100), "p "),
        ((side(0.2), side(0.6)), 0.38, (100, 100), "forgetting"),
        ((side(0.2), side(0.6, seconds=2.0)), 0.40, (100, 100), "sec_ratio"),
        ((side(0.2), side(0.6)), 0.40, (100, 120), "memory_ratio"),
        ((side(0.2), side(0.6)), float("nan"), (100, 100), "forgetting"),
    ],
)
def test_a_build_that_misses_one_threshold_is_refused_with_the_table(
    sides: tuple[list[Asked], list[Asked]], accuracy: float, memory: tuple[int, int], culprit: str
) -> None:
    with pytest.raises(GateError, match="nothing was packaged") as caught:
        judge(figures(0.40, accuracy, sides, memory), RECIPE)
    failed = [line for line in str(caught.value).splitlines() if line.endswith("FAILED")]
    assert len(failed) == 1 and failed[0].strip().startswith(culprit)
    assert "F1 0." in str(caught.value)


def test_without_questions_only_what_is_forgotten_counts() -> None:
    assert "p" not in judge(figures(0.40, 0.40), RECIPE)
    with pytest.raises(GateError, match="forgetting"):
        judge(figures(0.40, 0.30), RECIPE)


def test_each_held_out_question_is_asked_once_and_no_more_than_wished() -> None:
    shown = (Shown("", "It weighs 3 g."),)
    examples = [Example(f"{n}@{v}", "d", f"How much is {n}?", shown, ("3 g",), 1) for n in range(30) for v in range(3)]
    examples.append(Example("alone", "d", "Who are you?", (), ("A gateway.",)))
    assert len(chosen(examples, 100)) == 30
    assert len({one.question for one in chosen(examples, 8)}) == 8 and chosen(examples, 8) == chosen(examples, 8)
