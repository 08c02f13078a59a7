"""Rows to cells and differences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.advise.arms import Row, row
from optimize.advise.figures import MARGIN, Cost, column, difference, differences
from optimize.dataset.examples import Example
from optimize.scores import interval

COST = Cost(10.0, 1000, 2.0, 10)


def made(id: str, f1: float, *, answerable: bool = True, abstained: bool = False, seconds: float = 1.0) -> Row:
    return Row(id, answerable, "" if abstained else "text", f1, float(f1 == 1), abstained, not abstained, seconds, 100)


def test_a_column_takes_each_share_over_what_it_is_of() -> None:
    rows = [
        made("a", 1.0, seconds=1.0),
        made("b", 0.5, seconds=2.0),
        made("c", 1.0, answerable=False, abstained=True, seconds=3.0),
        made("d", 0.0, abstained=True, seconds=40.0),
    ]
    found = column(rows, COST)
    assert found.f1.value == pytest.approx(0.625)
    assert found.answered_f1.value == pytest.approx(0.5)
    assert found.grounded.value == 1.0
    assert found.abstained.value == 0.5
    assert found.abstention_right.value == 0.5
    assert (found.sec_p50, found.sec_p95) == (2.5, 40.0)


def test_a_share_of_nothing_is_no_figure() -> None:
    found = column([made("a", 1.0)], COST)
    assert found.abstention_right.value is None and found.abstention_right.low is None
    with pytest.raises(ValueError, match="at least one question"):
        column([], COST)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_an_interval_holds_the_mean(values: list[float]) -> None:
    low, high = interval(values, rounds=400)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert low - 1e-9 <= sum(values) / len(values) <= high + 1e-9 or len(values) < 8


def test_a_clear_difference_has_an_interval_above_zero_and_an_unclear_one_has_not() -> None:
    ids = [str(number) for number in range(60)]
    worse, better = [made(id, 0.2) for id in ids], [made(id, 0.9) for id in ids]
    found = difference("rag", "both", worse, better)
    assert found.value == pytest.approx(0.7) and found.low > 0 and found.needed == 0
    mixed = [made(id, float(number % 2)) for number, id in enumerate(ids)]
    found = difference("rag", "both", [made(id, 0.5) for id in ids], mixed)
    assert found.low < 0 < found.high
    assert found.needed == pytest.approx((1.96 * 0.504 / MARGIN) ** 2, rel=0.01)  # its mean is 0
    ahead = difference("rag", "both", [made(id, 0.4) for id in ids], mixed)
    assert ahead.needed == pytest.approx((1.96 * 0.504 / 0.1) ** 2, rel=0.02)


def test_arms_compare_on_the_same_questions_alone() -> None:
    with pytest.raises(ValueError, match="same questions"):
        difference("rag", "both", [made("a", 1.0)], [made("b", 1.0)])
    rows = {"both": [made("a", 1.0)], "rag": [made("a", 0.0)], "base": [made("a", 0.0)]}
    assert set(differences(rows)) == {("base", "rag"), ("base", "both"), ("rag", "both")}  # type: ignore[arg-type]


def test_a_row_scores_an_abstention_by_whether_there_was_an_answer() -> None:
    line = {"abstained": True, "answer": "No.", "citations": [], "unsupported": [], "rss_peak_bytes": 5}
    there, none = (Example("q", "d", "Who?", (), answers) for answers in (("Tesla",), ()))
    assert (row(there, line, 1.0).f1, row(none, line, 1.0).f1) == (0.0, 1.0)
    line = {"abstained": False, "answer": "Nikola Tesla", "citations": [{}], "unsupported": [], "rss_peak_bytes": 5}
    found = row(there, line, 1.0)
    assert found.f1 == pytest.approx(2 / 3) and found.grounded
    assert not row(there, line | {"unsupported": ["Tesla"]}, 1.0).grounded
