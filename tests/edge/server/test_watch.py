"""When a new bundle has to go."""

from __future__ import annotations

import pytest

from edge.server.watch import Watch


def begun(requests: int = 10, *, before: float = 0.1) -> Watch:
    watch = Watch(requests, 60.0)
    for _ in range(5):
        assert watch.ended(0.0, "", before) is None
    watch.begin(1.0)
    return watch


def test_a_bundle_that_answers_stays() -> None:
    watch = begun()
    assert [watch.ended(2.0, "", 0.12) for _ in range(30)] == [None] * 30
    assert not watch.is_on


def test_failures_in_a_row_are_enough() -> None:
    watch = begun()
    assert [watch.ended(2.0, "EngineError", None) for _ in range(2)] == [None, None]
    assert "3 of its first 3 requests failed" in str(watch.ended(2.0, "EngineError", None))
    assert watch.ended(2.0, "EngineError", None) is None  # said once


def test_a_few_failures_among_many_answers_are_not() -> None:
    watch = begun()
    outcomes = ["", "EngineError", "", "", "EngineError", "", "", "EngineError", "", ""]
    assert [watch.ended(2.0, error, None if error else 0.1) for error in outcomes] == [None] * 10


@pytest.mark.parametrize("error", ["UsageError", "PromptTooLong", "Cancelled", "Full", "StoreBusy"])
def test_what_is_not_the_bundle_s_fault(error: str) -> None:
    watch = begun()
    assert [watch.ended(2.0, error, None) for _ in range(10)] == [None] * 10


def test_much_slower_than_the_one_before() -> None:
    watch = begun(before=0.1)
    said = [watch.ended(2.0, "", 0.5) for _ in range(10)]
    assert said[:9] == [None] * 9
    assert "0.50 s" in str(said[9])


def test_nothing_to_compare_with() -> None:
    watch = Watch(5, 60.0)
    watch.begin(0.0)
    assert [watch.ended(1.0, "", 9.0) for _ in range(5)] == [None] * 5


def test_the_time_is_up() -> None:
    watch = begun()
    assert watch.ended(2.0, "", 0.1) is None
    assert watch.is_on
    assert watch.ended(99.0, "", 0.1) is None
    assert not watch.is_on
    assert [watch.ended(100.0, "EngineError", None) for _ in range(9)] == [None] * 9


def test_none_is_watched() -> None:
    watch = Watch(0, 60.0)
    watch.begin(0.0)
    assert [watch.ended(1.0, "EngineError", None) for _ in range(9)] == [None] * 9
