"""Made-up results and a peer that answers as it is told to, for the tests of `edge bench`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge.bench.result import PeerResult, Result, SuiteResult

Behaviour = Callable[["Handler", dict[str, Any]], None]


def make_result(latency: dict[str, float | None], **changes: Any) -> Result:
    """A result with these metrics in the suite latency."""
    fields: dict[str, Any] = {
        "environment": {"cpu": "made up", "bundle": {"digest": "0" * 64}},
        "settings": {"seed": 0},
        "created": "2026-11-22T12:00:00Z",
        "suites": {"latency": SuiteResult(metrics=dict(latency))},
    }
    return Result(**(fields | changes))


def make_peer(name: str, latency: dict[str, float | None]) -> PeerResult:
    return PeerResult(name, "url", suites={"latency": SuiteResult(metrics=dict(latency))})


class Handler(BaseHTTPRequestHandler):
    """A server that speaks enough of the protocol; `behaviours` say what each path does with a request."""

    protocol_version = "HTTP/1.1"
    behaviours: dict[str, Behaviour]
    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, **body})
        self._answer(body)

    def _answer(self, body: dict[str, Any]) -> None:
        behaviour = self.behaviours.get(self.path)
        self.close_connection = True
        if behaviour is None:
            self.send_error(404)
            return
        try:
            behaviour(self, body)
        except (BrokenPipeError, ConnectionResetError):  # whoever asked has gone
            return

    def begin(self, kind: str = "text/event-stream") -> None:
        """The head of an answer whose end is the end of the connection."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()

    def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def json(self, data: Any) -> None:
        self.begin("application/json")
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, format: str, *args: Any) -> None: ...


def models(handler: Handler, _: dict[str, Any]) -> None:
    handler.json({"object": "list", "data": [{"id": "tiny"}]})


def completing(pause_sec: float = 0.0, **last: Any) -> Behaviour:
    """Stream as many pieces as are asked for; `last` goes into the last event beside the count of tokens."""

    def complete(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for number in range(body["max_tokens"]):
            time.sleep(pause_sec)
            handler.event({"choices": [{"text": f" w{number}", "finish_reason": None}]})
        usage = {"prompt_tokens": 64, "completion_tokens": body["max_tokens"]}
        handler.event({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage, **last})
        handler.event("[DONE]")

    return complete


def chatting(handler: Handler, body: dict[str, Any]) -> None:
    handler.begin()
    handler.event({"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]})
    for number in range(body["max_tokens"]):
        handler.event({"choices": [{"delta": {"content": f" w{number}"}, "finish_reason": None}]})
    handler.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    handler.event("[DONE]")


@contextmanager
def peer(**paths: Behaviour) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server on loopback: its address, and what it was asked. Paths are named by their last part."""
    names = {"models": "/v1/models", "completions": "/v1/completions", "chat": "/v1/chat/completions"}
    behaviours = {names.get(name, f"/{name}"): behaviour for name, behaviour in ({"models": models} | paths).items()}
    asked: list[dict[str, Any]] = []
    handler = type("MadeHandler", (Handler,), {"behaviours": behaviours, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
