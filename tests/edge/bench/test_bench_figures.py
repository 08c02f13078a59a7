"""Percentiles, ratios and directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bench.figures import higher_is_better, is_figure, largest, percentile, ratios, rounded, spread


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.sampled_from([0, 5, 50, 95, 99, 100]))
def test_percentiles_are_numpy_s(samples: list[float], percent: int) -> None:
    assert percentile(samples, percent) == pytest.approx(np.percentile(samples, percent), rel=1e-9, abs=1e-6)


def test_no_samples_are_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)
    assert spread("ttft_sec", [None], (50, 95)) == {"ttft_sec_p50": None, "ttft_sec_p95": None}
    assert largest("rss_peak_bytes", []) == {"rss_peak_bytes": None}


def test_spread_leaves_missing_samples_out() -> None:
    assert spread("x", [None, 1.0, 3.0]) == {"x_p50": 2.0}
    assert largest("rss_peak_bytes", [5, None, 7]) == {"rss_peak_bytes": 7}


def test_a_ratio_is_ours_over_theirs_where_both_have_a_value() -> None:
    ours: dict[str, float | None] = {"a": 3.0, "b": None, "c": 1.0, "d": 2.0, "e": 1.0}
    theirs: dict[str, float | None] = {"a": 2.0, "b": 1.0, "c": None, "d": 0.0}
    assert ratios(ours, theirs) == {"a": 1.5}


def test_bytes_stay_whole_and_times_are_short() -> None:
    assert rounded(327675904) == 327675904
    assert rounded(0.123456789) == 0.12346


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("ttft_sec_p95", False),
        ("decode_tok_per_sec_p50", True),
        ("latency.prefill_256_tok_per_sec_p50", True),
        ("rss_peak_bytes", False),
        ("follow_up_ttft_ratio", False),
        ("follow_up_cached_share_p50", True),
        ("recall_at_10_1000", True),
        ("decode_joules_per_tok", False),
        ("index_chunks", None),
    ],
)
def test_which_way_is_better(metric: str, higher: bool | None) -> None:
    assert higher_is_better(metric) is higher


@pytest.mark.parametrize(("value", "good"), [(1, True), (1.5, True), (None, True), (True, False), ("1", False)])
def test_what_may_stand_for_a_metric(value: object, good: bool) -> None:
    assert is_figure(value) is good
    assert not is_figure(float("nan"))
