"""Expressions of --fail-if, and what else two results differ in."""

from __future__ import annotations

import pytest

from edge.bench.compare import differences, judge, parse, table
from edge.errors import ResultError, UsageError
from tests.edge.bench.made import make_result

BEFORE = make_result({"decode_tok_per_sec_p50": 100.0, "ttft_sec_p95": 0.2, "load_sec_p50": None})
AFTER = make_result({"decode_tok_per_sec_p50": 94.0, "ttft_sec_p95": 0.2, "rss_peak_bytes": 300e6})


@pytest.mark.parametrize(
    ("expression", "fails"),
    [
        ("decode_tok_per_sec_p50 < 0.95x", True),
        ("decode_tok_per_sec_p50<0.94x", False),
        ("decode_tok_per_sec_p50 <= 0.94x", True),
        ("latency.decode_tok_per_sec_p50 < 95", True),
        ("ttft_sec_p95 > 1.0x", False),
        ("ttft_sec_p95 >= 1x", True),
        ("rss_peak_bytes > 256e6", True),
        ("rss_peak_bytes > 3.5E+8", False),
        ("  rss_peak_bytes  >  .5 ", True),
    ],
)
def test_conditions(expression: str, fails: bool) -> None:
    assert bool(judge([parse(expression)], BEFORE, AFTER)) is fails


def test_a_failure_says_by_how_much() -> None:
    (failure,) = judge([parse("decode_tok_per_sec_p50 < 0.95x")], BEFORE, AFTER)
    assert str(failure) == "decode_tok_per_sec_p50 is 94, < 95 (decode_tok_per_sec_p50 < 0.95x)"


@pytest.mark.parametrize(
    "expression",
    [
        "", "decode", "< 3", "decode_tok_per_sec_p50 0.95x", "decode_tok_per_sec_p50 < fast",
        "decode_tok_per_sec_p50 = 1", "decode_tok_per_sec_p50 < nan", "decode_tok_per_sec_p50 < 1xx",
        "decode_tok_per_sec_p50 < 0.9x; rm", "decode_tok_per_sec_p50 < 1e999", "a < b < 3", "a < -",
    ],
)  # fmt: skip
def test_nonsense_is_a_usage_error(expression: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse(expression)


def test_an_unknown_metric_is_a_usage_error_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean decode_tok_per_sec_p50"):
        judge([parse("decode_tok_per_s_p50 < 1")], BEFORE, AFTER)
    with pytest.raises(UsageError, match="they have"):
        judge([parse("zzzzzz < 1")], BEFORE, AFTER)


def test_a_metric_without_a_value_cannot_be_judged() -> None:
    with pytest.raises(ResultError, match="rss_peak_bytes has no value in A"):
        judge([parse("rss_peak_bytes > 1.1x")], BEFORE, AFTER)
    known = make_result({"load_sec_p50": None})
    known.suites["latency"].absent("it was not asked for", "load_sec_p50")
    with pytest.raises(ResultError, match=r"no value in B.*it was not asked for"):
        judge([parse("load_sec_p50 > 1")], BEFORE, known)


def test_ratios_can_be_judged() -> None:
    after = make_result({"a_sec": 1.0}, ratios={"a_sec": 1.2})
    assert judge([parse("ratios.a_sec > 1")], after, after)


def test_the_table_has_every_metric_of_either() -> None:
    rows = {row.metric: row for row in table(BEFORE, AFTER)}
    assert list(rows) == ["decode_tok_per_sec_p50", "ttft_sec_p95", "load_sec_p50", "rss_peak_bytes"]
    assert rows["decode_tok_per_sec_p50"].ratio == 0.94
    assert rows["rss_peak_bytes"].ratio is None


def test_what_differs_besides_the_figures() -> None:
    other = make_result(
        {},
        environment={"cpu": "another", "bundle": {"digest": "1" * 64}},
        settings={"seed": 1, "edge": {"engine": {"draft_tokens": 4}}, "text_sha256": "2", "peers": ["llama.cpp"]},
    )
    assert differences(BEFORE, BEFORE) == []
    assert differences(BEFORE, other) == [
        "cpu: made up and another",
        "seed: 0 and 1",
        "edge.engine.draft_tokens: None and 4",
        "text_sha256: None and 2",
        "bundle: 000000000000 and 111111111111",
    ]
