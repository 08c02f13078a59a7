"""OpenTelemetry traces: which spans there are, what they hold, and that they cost nothing where they are off."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from edge.config import ServerConfig
from edge.errors import ConfigError
from edge.server.app import ROUTES, _route_of
from edge.server.journal import Journal
from edge.server.traces import Done, Traces

RESULT = {
    "prompt_tokens": 200, "cached_tokens": 40, "completion_tokens": 11, "finish_reason": "stop", "ttft_sec": 0.5,
    "decode_tok_per_sec": 10.0, "retrieve_sec": 0.2, "answer": "It is kept for the secret 36 months.",
}  # fmt: skip
ASKED = {"question": "How long is the secret warranty?", "sampling": {"max_tokens": 64, "temperature": 0.5}}


def done(do: str = "ask", request: Any = ASKED, result: Any = RESULT, error: str = "") -> Done:
    return Done(do, request, "tiny+rag", 1000.0, 0.25, 3.0, result, error, "")


def spans_of(*pieces: Done, texts: bool = False) -> dict[str, ReadableSpan]:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter, texts=texts)
    for one in pieces:
        traces.done(one, "id")
    traces.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def times(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None and span.end_time is not None
    return span.start_time / 1e9, span.end_time / 1e9


def test_an_answer_is_a_wait_a_search_and_a_generation() -> None:
    spans = spans_of(done())
    assert list(spans) == ["queue", "retrieval default", "chat tiny+rag"]
    assert times(spans["queue"]) == (1000.0, 1000.25)
    assert times(spans["retrieval default"]) == pytest.approx((1001.3, 1001.5))
    assert times(spans["chat tiny+rag"]) == pytest.approx((1001.5, 1003.0))  # 0.5 s to the first token, ten at 10/s
    attributes = spans["chat tiny+rag"].attributes or {}
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.usage.output_tokens"] == 11
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 40
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.request.max_tokens"] == 64


def test_without_being_told_no_words_are_in_them() -> None:
    hidden = json.dumps([dict(span.attributes or {}) for span in spans_of(done()).values()])
    assert "secret" not in hidden
    spans = spans_of(done(), texts=True)
    assert (spans["chat tiny+rag"].attributes or {})["gen_ai.input.messages"] == ASKED["question"]
    assert (spans["chat tiny+rag"].attributes or {})["gen_ai.output.messages"] == RESULT["answer"]
    assert (spans["retrieval default"].attributes or {})["gen_ai.retrieval.query.text"] == ASKED["question"]


def test_other_work() -> None:
    abstained = RESULT | {"completion_tokens": 0, "ttft_sec": 0.0, "decode_tok_per_sec": 0.0}
    assert list(spans_of(done(result=abstained))) == ["queue", "retrieval default"]
    assert list(spans_of(done("generate", {"prompt": "a"}, RESULT))) == ["queue", "text_completion tiny+rag"]
    assert list(spans_of(done("embed", {"texts": ["a"]}, {"tokens": 3}))) == ["embeddings tiny+rag"]
    assert list(spans_of(done("search", {"query": "a"}, {}))) == ["retrieval default"]
    assert spans_of(done("load", {}, {})) == {}
    failed = spans_of(done(result={}, error="EngineError"))["chat tiny+rag"]
    assert (failed.attributes or {})["error.type"] == "EngineError"
    assert not failed.status.is_ok


def test_a_request_is_above_them_and_below_whoever_sent_it() -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter, texts=False)

    async def answer(request: Request) -> Response:
        traces.done(done(), "id")
        return Response(status_code=int(request.query_params["status"]))

    app = Starlette(routes=[Route("/v1/index/documents/{name}", answer), Route("/healthz", answer)])
    client = TestClient(traces.middleware(app, _route_of))
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    client.get("/v1/index/documents/secret.md?status=200", headers=parent)
    client.get("/v1/index/documents/secret.md?status=503")
    client.get("/healthz?status=200")
    traces.close()
    spans = exporter.get_finished_spans()
    good, bad = (span for span in spans if span.name == "GET /v1/index/documents/{name}")
    assert good.parent is not None and f"{good.parent.span_id:x}" == "b7ad6b7169203331"
    below = [span.name for span in spans if span.parent is not None and span.parent.span_id == good.context.span_id]
    assert below == ["queue", "retrieval default", "chat tiny+rag"]
    assert (good.attributes or {})["http.response.status_code"] == 200
    assert (bad.attributes or {})["error.type"] == "503"
    assert "secret" not in json.dumps([dict(span.attributes or {}) for span in spans])
    assert not any("health" in span.name for span in spans)


def test_every_route_has_a_name_that_holds_nothing_of_clients() -> None:
    for route in ROUTES:
        scope = {"type": "http", "method": "GET", "path": route.path.replace("{name}", "x"), "headers": []}
        assert _route_of(scope) in ("", route.path)
    assert _route_of({"type": "http", "method": "GET", "path": "/my/secret", "headers": []}) == ""


def test_a_collector_that_is_not_there_holds_nobody_up() -> None:
    traces = Traces.to("http://127.0.0.1:9", texts=False)
    started = time.monotonic()
    traces.done(done(), "id")
    traces.close()
    assert time.monotonic() - started < 4


def test_what_was_asked_is_logged_with_the_id_of_its_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Journal(tmp_path).texts(done(), "r1")
    Journal(tmp_path).texts(
        done("generate", {"messages": [{"role": "user", "content": "Hi"}]}, {}, "EngineError"), "r2"
    )
    Journal(tmp_path).texts(done("load", {}, {}), "r3")  # asks nothing
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["request"], first["asked"], first["answered"]) == ("r1", ASKED["question"], RESULT["answer"])
    assert (second["request"], second["error"], "Hi" in second["asked"]) == ("r2", "EngineError", True)


def test_off_is_the_default_and_imports_nothing() -> None:
    assert Traces.of(ServerConfig()) is None
    code = "import sys, edge.server.daemon; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_what_is_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="URL of a collector"):
        ServerConfig(traces="localhost:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"edge-slm\[otel\]"):
        Traces.of(ServerConfig(traces="http://127.0.0.1:4318"))
