"""A real daemon that sends its traces to a collector on this machine."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from _daemon import Daemon
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTION = "How long is the warranty of the gateway?"


class Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.taken = []  # type: ignore[attr-defined]
        running = threading.Thread(target=server.serve_forever)
        running.start()
        yield server
        server.shutdown()
        running.join()


def daemon_with(sample_home: Path, home: Path, **server: Any) -> Daemon:
    home.mkdir(exist_ok=True)
    (home / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", home / "index.db")
    (home / "config.yaml").write_text(json.dumps({"server": server}))
    return Daemon(environment={**os.environ, "EDGE_HOME": str(home)})


def ask(daemon: Daemon) -> str:
    asked = {"model": "edge+rag", "messages": [{"role": "user", "content": QUESTION}]}
    return str(daemon.call("POST", "/v1/chat/completions", asked)["choices"][0]["message"]["content"])


def test_a_question_s_spans_reach_the_collector_without_its_words(
    sample_home: Path, tmp_path: Path, collector: ThreadingHTTPServer
) -> None:
    with daemon_with(sample_home, tmp_path / "h", traces=f"http://127.0.0.1:{collector.server_port}") as daemon:
        ask(daemon)
        assert daemon.stop() == 0  # what is left is sent at the end
    taken: list[tuple[str, bytes]] = collector.taken  # type: ignore[attr-defined]
    assert {path for path, _ in taken} == {"/v1/traces"}
    spans, service = {}, ""
    for _, data in taken:
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert service == "edge-slm"
    top = spans.pop("POST /v1/chat/completions")
    assert {name.partition(" ")[0] for name in spans} == {"queue", "retrieval", "chat"}
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (top.trace_id, top.span_id)
        assert top.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    assert b"warranty" not in b"".join(data for _, data in taken)
