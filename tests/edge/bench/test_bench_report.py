"""The page of drawings: complete in itself, and an error that says what to do where it cannot be drawn."""

from __future__ import annotations

import re
import sys

import pytest

from edge.bench.report import page
from edge.bench.result import Result, SuiteResult
from edge.errors import EdgeError, ResultError
from tests.edge.bench.made import make_peer, make_result

SAMPLE = {"prompt_tokens_wanted": 64, "ttft_sec": 0.1, "inter_token_sec": [0.01, 0.02]}
SIZES = {"dense_sec_p50": 0.001, "exact_sec_p50": 0.004, "search_sec_p50": 0.02, "recall_at_10": 0.99}


def drawn() -> Result:
    result = make_result({"ttft_sec_p50": 0.1, "decode_tok_per_sec_p50": 50.0, "load_sec_p50": None})
    latency = result.suites["latency"]
    latency.absent("<nobody> asked", "load_sec_p50")
    latency.samples["generation"] = [SAMPLE, SAMPLE]
    latency.series["by_prompt_tokens"] = [
        {"prompt_tokens": 64, "prefill_tok_per_sec_p50": 900.0, "decode_tok_per_sec_p50": None}
    ]
    latency.series["memory_over_time"] = [{"sec": 0.0, "rss_bytes": 1e8, "private_bytes": 5e7}]
    result.suites["rag"] = SuiteResult(series={"stages": [{"stage": "prefill", "sec": 0.2}]})
    result.suites["retrieval"] = SuiteResult(series={"by_index_chunks": [{"index_chunks": 100, **SIZES}]})
    result.peers = [make_peer("llama <server>", {"ttft_sec_p50": 0.2, "decode_tok_per_sec_p50": 60.0})]
    result.divide()
    return result


def test_a_page_holds_all_drawings_and_needs_nothing_else() -> None:
    pytest.importorskip("matplotlib")
    text = page([("a.json", drawn()), ("b.json", drawn())])
    assert text.count("data:image/svg+xml;base64,") == 5
    assert "No data" not in text
    assert set(re.findall(r'(?:src|href)="?([a-z]+:)', text)) == {"data:"} and "http" not in text
    assert "llama &lt;server&gt;" in text and "llama <server>" not in text
    assert "&lt;nobody&gt; asked" in text
    assert re.search(r"class=good>0\.5\b", text) and re.search(r"class=bad>0\.833", text)


def test_what_was_not_measured_is_said() -> None:
    pytest.importorskip("matplotlib")
    text = page([("a.json", make_result({"ttft_sec_p50": 0.1}, complete=False, errors=["peer: down"]))])
    assert text.count("No data") == 5
    assert "the suite rag was not run" in text and "peer: down" in text


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EdgeError, match=r"pip install 'edge-slm\[bench\]'"):
        page([("a.json", drawn())])


def test_series_that_were_tampered_with() -> None:
    pytest.importorskip("matplotlib")
    result = drawn()
    result.suites["latency"].series["by_prompt_tokens"] = [{"prompt_tokens": "many"}]
    with pytest.raises(ResultError, match="cannot be drawn"):
        page([("a.json", result)])
