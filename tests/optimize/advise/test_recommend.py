"""What is advised for given figures: the rule, its reasons, and that it says so where the figures do not settle it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.advise.arms import NAMES, Name, Row
from optimize.advise.figures import MARGIN, Cell, Column, Cost, Difference, column, differences
from optimize.advise.recommend import Advice, Changes, Training, Wishes, minutes, recommend

COSTS = {
    "base": Cost(60, 10**8, None, 0),
    "rag": Cost(70, 2 * 10**8, 3.0, 10**7),
    "tuned": Cost(700, 10**8, 700.0, 10**8),
    "both": Cost(710, 2 * 10**8, 703.0, 2 * 10**8),
}
ENOUGH = Training(questions=900, unfound=10)


def rows(f1: float, count: int, spread: float = 0.0) -> list[Row]:
    values = [min(1.0, max(0.0, f1 + (spread if number % 2 else -spread))) for number in range(count)]
    return [Row(str(n), True, "text", value, 0.0, False, True, 0.5, 10**8) for n, value in enumerate(values)]


def advised(
    scores: dict[Name, float], count: int = 200, spread: float = 0.0, wishes: Wishes | None = None,
    training: Training = ENOUGH,
) -> Advice:  # fmt: skip
    asked = {name: rows(f1, count, spread if name == "both" else 0.0) for name, f1 in scores.items()}
    columns: dict[Name, Column] = {name: column(found, COSTS[name]) for name, found in asked.items()}
    return recommend(columns, differences(asked), wishes or Wishes(), training)


def test_the_cheaper_arm_is_taken_where_it_is_as_good() -> None:
    advice = advised({"base": 0.1, "rag": 0.6, "tuned": 0.2, "both": 0.61})
    assert advice.choice == "rag" and advice.more_questions == 0


def test_tuning_is_taken_where_it_pays() -> None:
    advice = advised({"base": 0.1, "rag": 0.4, "tuned": 0.2, "both": 0.7})
    assert advice.choice == "both"
    assert any(reason.cells == ("rag.f1", "both.f1") and "raises" in reason.text for reason in advice.reasons)
    assert any("RAG alone" in text for text in advice.would_change)


def test_a_model_alone_is_taken_only_where_nobody_asks_for_sources_or_fresh_documents() -> None:
    scores: dict[Name, float] = {"base": 0.1, "rag": 0.3, "tuned": 0.8, "both": 0.8}
    assert advised(scores).choice == "both"
    assert advised(scores, wishes=Wishes("never", sources=False)).choice == "tuned"
    assert advised(scores, wishes=Wishes("daily", sources=False)).choice == "both"
    assert any("0.800" in text and "ships no index" in text for text in advised(scores).would_change)


def test_neither_is_a_possible_answer() -> None:
    advice = advised({"base": 0.5, "rag": 0.5, "tuned": 0.5, "both": 0.5}, wishes=Wishes(sources=False))
    assert advice.choice == "base"


def test_figures_that_settle_nothing_are_called_so_with_the_questions_needed() -> None:
    advice = advised({"base": 0.1, "rag": 0.5, "tuned": 0.2, "both": 0.53}, count=20, spread=0.45)
    assert advice.choice is None and advice.more_questions > 100
    assert "Inconclusive" in advice.headline and str(advice.more_questions) in advice.headline
    assert any(str(advice.more_questions) in text for text in advice.would_change)


def test_small_sets_unfound_answers_low_scores_and_failed_builds_are_told() -> None:
    scores: dict[Name, float] = {"base": 0.0, "rag": 0.1}
    failed = advised(scores, training=Training(40, 20, failed="KL 0.2 nats, at most 0.01"))
    told = " ".join(reason.text for reason in failed.reasons)
    assert "KL 0.2 nats" in told and "20 of 40" in told and "None of them answers well" in told
    few = advised({**scores, "tuned": 0.1, "both": 0.1}, training=Training(40, 0))
    assert any("40 questions to train on are few" in reason.text for reason in few.reasons)
    with pytest.raises(ValueError, match="no arm"):
        advised({"base": 0.5})


SOME = column(rows(0.5, 4), COSTS["rag"])


@given(
    st.fixed_dictionaries({name: st.floats(0, 1) for name in NAMES}),
    st.booleans(),
    st.sampled_from(["never", "monthly", "daily"]),
    st.floats(0, 0.5),
)
def test_a_choice_is_never_clearly_worse_than_an_arm_that_meets_the_wishes(
    scores: dict[Name, float], sources: bool, changes: Changes, reach: float
) -> None:
    columns = {name: replace(SOME, f1=Cell(f1, f1 - reach, f1 + reach)) for name, f1 in scores.items()}
    found = {
        (first, second): Difference(first, second, 60, gap, gap - reach, gap + reach, 10_000)
        for first, second in itertools.combinations(NAMES, 2)
        for gap in [scores[second] - scores[first]]
    }
    advice = recommend(columns, found, Wishes(changes, sources), ENOUGH)
    assert (advice.choice is None) == (advice.more_questions > 0)
    for reason in advice.reasons:
        assert reason.text and all(cell.split(".")[0] in columns for cell in reason.cells)
    if advice.choice is None:
        return
    assert not (sources and advice.choice in ("base", "tuned"))
    for other in ("rag", "both") if sources else ("base", "rag", "both"):
        if (advice.choice, other) in found:
            assert found[advice.choice, other].low <= MARGIN


def test_a_gain_that_nobody_would_notice_does_not_pay_for_training() -> None:
    advice = advised({"base": 0.0, "rag": 0.600, "both": 0.605})
    assert advice.choice == "rag"


def test_times_are_shown_for_a_person() -> None:
    assert (minutes(3.21), minutes(119.0), minutes(600.0)) == ("3.2 s", "119.0 s", "10.0 min")
    assert replace(COSTS["rag"], update_sec=None).update_sec is None
