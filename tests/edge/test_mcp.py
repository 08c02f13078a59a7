"""The documents as tools: what they take, what they return, and what they say when it goes wrong."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from mcp import Client

from edge.errors import EngineError, StoreMissing, UsageError
from edge.mcp import serve_http, server
from edge.mcp_sources import Cited, DaemonSource, Found, Said

FOUND = Found("/a.md", "A", None, 0, 4, 0.5, "Yes.")
CITED = Cited(1, "/a.md", "A", None, 0, 4, 0.9, "Yes.", "Yes.")


class Scripted:
    """A source that remembers what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self._error = error

    def search(self, query: str, top_k: int, where: Sequence[str]) -> list[Found]:
        self._take(query, top_k, list(where))
        return [FOUND]

    def ask(self, question: str, where: Sequence[str]) -> Said:
        self._take(question, list(where))
        return Said("Yes. [1]", False, [CITED])

    def _take(self, *what: Any) -> None:
        self.asked.append(what)
        if self._error is not None:
            raise self._error


def call(source: Any, tool: str, arguments: dict[str, Any]) -> Any:
    async def run() -> Any:
        async with Client(server(source)) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(run())


def test_what_tools_return_is_typed() -> None:
    source = Scripted()
    found = call(source, "search", {"query": "a", "top_k": 3, "filter": ["type=md"]})
    assert found.structured_content["hits"][0]["text"] == "Yes."
    said = call(source, "ask", {"question": "a?"})
    assert said.structured_content["citations"][0]["marker"] == 1
    assert source.asked == [("a", 3, ["type=md"]), ("a?", [])]


@pytest.mark.parametrize("arguments", [{}, {"query": ""}, {"query": "a", "top_k": 0}, {"query": "a", "top_k": 51}])
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    source = Scripted()
    assert call(source, "search", arguments).is_error
    assert source.asked == []


def test_the_assistant_learns_what_went_wrong() -> None:
    told = call(Scripted(StoreMissing("there is no index yet: run `edge ingest`")), "ask", {"question": "a?"})
    assert told.is_error
    assert "run `edge ingest`" in told.content[0].text


def test_a_bug_is_not_told() -> None:
    told = call(Scripted(RuntimeError("secret")), "ask", {"question": "a?"})
    assert told.is_error
    assert "secret" not in told.content[0].text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "box.lan"])
def test_other_machines_are_not_served(host: str) -> None:
    with pytest.raises(UsageError, match="loopback"):
        serve_http(Scripted(), host, 0)


class Handler(BaseHTTPRequestHandler):
    """A daemon that wants a key."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer good":
            self._send(401, {"error": {"message": "the key is missing"}})
        elif self.path == "/v1/search":
            assert json.loads(body) == {"query": "a", "top_k": 2, "filter": ["type=md"]}
            hit = {"document": "/a.md", "title": "A", "page": None, "start": 0, "end": 4, "score": 0.5, "text": "Yes."}
            self._send(200, {"data": [hit | {"name": "a.md", "dense": 0.1}]})
        else:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


def test_a_daemon_is_asked_with_its_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # is not gone through
    assert DaemonSource(url, "good").search("a", 2, ["type=md"]) == [FOUND]
    with pytest.raises(EngineError, match="the key is missing"):
        DaemonSource(url).search("a", 2, [])
    with pytest.raises(EngineError, match="says"):  # a redirect is not followed
        DaemonSource(url, "good").ask("a?", [])


def test_a_daemon_that_is_not_there() -> None:
    with pytest.raises(EngineError, match="edge serve"):
        DaemonSource("http://127.0.0.1:1").search("a", 2, [])


@pytest.mark.parametrize("url", ["127.0.0.1:8642", "file:///etc/passwd", "unix:/run/edge.sock", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="--url"):
        DaemonSource(url)
