"""`edge serve` as a process: a real daemon, the real model, plain HTTP."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from _daemon import Daemon, Reply, tree

from edge.machine import status_bytes
from tests.process.daemons import (
    IDLE_RSS_BYTES,
    QUESTION,
    STORY,
    chat,
    configure,
    eventually,
    put,
)

pytestmark = [pytest.mark.model, pytest.mark.process]


def test_from_a_question_to_its_citation(own_daemon: Daemon) -> None:
    assert status_bytes("VmRSS", own_daemon.pid) < IDLE_RSS_BYTES
    assert len(tree(own_daemon.pid)) == 1  # no model, no box, before somebody asks
    reply = chat(own_daemon, "How long is the warranty of the gateway?")
    message = reply["choices"][0]["message"]
    first = message["annotations"][0]
    source = own_daemon.call("GET", f"/v1/source?document={first['document']}")
    assert source["text"][first["start"] : first["end"]] == first["text"]
    at = first["url_citation"]
    assert message["content"][at["start_index"] : at["end_index"]] == "[1]"
    assert reply["usage"]["total_tokens"] > 0


def test_the_stream_says_the_same(daemon: Daemon) -> None:
    whole = chat(daemon, QUESTION)["choices"][0]["message"]
    asked = {"model": "edge+rag", "messages": [{"role": "user", "content": QUESTION}]}
    events = [event for _, event in daemon.stream({**asked, "stream_options": {"include_usage": True}})]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    assert [a for delta in deltas for a in delta.get("annotations", [])] == whole["annotations"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] > 0
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


def test_a_document_goes_in_is_found_and_goes_out(daemon: Daemon) -> None:
    question = "How often is the lamp of Skarv lighthouse cleaned?"
    put(daemon, "skarv.md", b"# Skarv lighthouse\n\nThe lamp of Skarv lighthouse is cleaned every 17 days.\n")
    cited = chat(daemon, question)["choices"][0]["message"]["annotations"][0]
    assert (cited["name"], "17 days" in cited["text"]) == ("skarv.md", True)
    assert daemon.call("GET", "/v1/index/documents/skarv.md")["document"] == cited["document"]
    put(daemon, "skarv.md", b"# Skarv lighthouse\n\nThe lamp of Skarv lighthouse is cleaned every 23 days.\n")
    assert "23 days" in chat(daemon, question)["choices"][0]["message"]["annotations"][0]["text"]
    daemon.call("DELETE", "/v1/index/documents/skarv.md")
    eventually(lambda: daemon.call("GET", "/v1/index/documents")["data"] == [])
    hits = daemon.call("POST", "/v1/search", {"query": question, "top_k": 20})["data"]
    assert all(hit["name"] != "skarv.md" for hit in hits)


def test_a_database_is_read_table_by_table(daemon: Daemon, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "b.sqlite")) as made:
        made.executescript(
            "CREATE TABLE buoys (name TEXT, colour TEXT); INSERT INTO buoys VALUES ('Tern', 'green');"
            "CREATE TABLE lamps (name TEXT, reach TEXT); INSERT INTO lamps VALUES ('Skarv', '12 miles')"
        )
    put(daemon, "b.sqlite", (tmp_path / "b.sqlite").read_bytes())
    whole = daemon.call("GET", "/v1/index/documents/b.sqlite")["document"]
    found = daemon.call("GET", f"/v1/source?document={whole}")
    assert [part.removeprefix(whole) for part in found["parts"]] == ["#buoys", "#lamps"]
    texts = [daemon.call("GET", f"/v1/source?document={quote(part)}")["text"] for part in found["parts"]]
    assert ["green" in texts[0], "12 miles" in texts[1]] == [True, True]
    daemon.call("DELETE", "/v1/index/documents/b.sqlite")
    eventually(lambda: daemon.call("GET", "/v1/index/documents")["data"] == [])


def test_one_key_never_finds_what_another_sent(environment: dict[str, str]) -> None:
    tokens = {}
    for name in ("anna", "berit"):
        call = [sys.executable, "-m", "edge", "key", "create", name, "--scope", "search", "--scope", "ingest", "--json"]
        made = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        tokens[name] = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
    with Daemon(environment=environment) as daemon:
        put(daemon, "secret.md", b"# Safe\n\nThe safe of Anna opens with 4711.\n", **tokens["anna"])
        asked = {"query": "What opens the safe of Anna?", "top_k": 50}
        names = {
            name: {hit["name"] for hit in daemon.call("POST", "/v1/search", asked, headers)["data"]}
            for name, headers in tokens.items()
        }
        assert "secret.md" in names["anna"]
        assert "secret.md" not in names["berit"]
        assert names["anna"] - {"secret.md"} == names["berit"]  # the owner's documents are everybody's
        hit = daemon.call("POST", "/v1/search", asked, tokens["anna"])["data"][0]
        with pytest.raises(Reply, match="404"):
            daemon.call("GET", f"/v1/source?document={hit['document']}", None, tokens["berit"])
        with pytest.raises(Reply, match="404"):
            daemon.call("DELETE", "/v1/index/documents/secret.md", None, tokens["berit"])
        with pytest.raises(Reply, match="403"):  # no scope for that
            daemon.call("POST", "/v1/chat/completions", {"model": "edge", "messages": STORY}, tokens["anna"])
        with pytest.raises(Reply, match="401"):
            daemon.call("POST", "/v1/search", asked)
        audit = (Path(environment["EDGE_HOME"]) / "daemon" / "audit.jsonl").read_text()
        assert [json.loads(line)["event"] for line in audit.splitlines()] == ["put"]


def test_a_client_that_goes_away_frees_its_slot(daemon: Daemon) -> None:
    chat(daemon, "Hi", "edge", max_tokens=1)
    stream = daemon.stream({"model": "edge", "max_tokens": 1500, "temperature": 1.0, "seed": 1, "messages": STORY})
    for _ in range(5):
        next(stream)
    assert daemon.call("GET", "/v1/status")["running"] == 1
    stream.close()
    eventually(lambda: daemon.call("GET", "/v1/status")["running"] == 0, 2.0)
    chat(daemon, "Hi", "edge", max_tokens=1)


def test_a_slow_reader_keeps_nobody_waiting(daemon: Daemon) -> None:
    chat(daemon, "Hi", "edge", max_tokens=1)
    slow = daemon.stream({"model": "edge", "max_tokens": 100, "temperature": 1.0, "seed": 1, "messages": STORY})
    next(slow)  # and reads no further
    started = time.monotonic()
    assert chat(daemon, "Hi", "edge", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert time.monotonic() - started < 60
    assert len(list(slow)) > 10  # and it lost nothing


def test_no_request_waits_for_the_whole_answer_of_another(daemon: Daemon) -> None:
    chat(daemon, "Hi", "edge", max_tokens=1)
    asked = {"model": "edge", "temperature": 1.0, "seed": 1, "messages": STORY}
    long = daemon.stream({**asked, "max_tokens": 120})
    next(long)
    assert chat(daemon, "Hi", "edge", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert daemon.call("GET", "/v1/status")["running"] == 1  # the long one goes on
    assert list(long)[-1][1]["choices"][0]["finish_reason"] in ("length", "stop")


def test_a_full_queue_is_a_429_that_says_when_to_come_back(environment: dict[str, str]) -> None:
    configure(environment, queue=1, sessions=1)
    with Daemon(environment=environment) as daemon:
        chat(daemon, "Hi", "edge", max_tokens=1)
        asked = {"model": "edge", "max_tokens": 400, "temperature": 1.0, "seed": 1, "messages": STORY}
        held = daemon.stream(asked)
        next(held)
        waiting = threading.Thread(target=lambda: list(daemon.stream({**asked, "max_tokens": 2})))
        waiting.start()
        eventually(lambda: daemon.call("GET", "/v1/status")["waiting"] == 1)
        with pytest.raises(Reply) as told:
            chat(daemon, "Hi", "edge", max_tokens=1)
        assert told.value.status == 429
        assert int(told.value.headers["retry-after"]) >= 1
        held.close()
        waiting.join(60)
        assert not waiting.is_alive()


def test_a_unix_socket(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    call = [sys.executable, "-m", "edge", "serve", "--listen", f"unix:{path}"]
    with subprocess.Popen(call, env=environment, stderr=subprocess.PIPE) as running:
        try:
            eventually(path.exists)
            assert path.stat().st_mode & 0o007 == 0  # not everybody's
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(str(path))
                one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert one.recv(4096).startswith(b"HTTP/1.1 200")
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 0
    assert not path.exists()


def test_metrics_and_log_hold_no_words_of_anybody(daemon: Daemon) -> None:
    chat(daemon, QUESTION)
    metrics = _text(daemon, "/metrics")
    for name in ("gen_ai_server_time_to_first_token_seconds", "edge_memory_ledger_bytes", "edge_requests_waiting"):
        assert name in metrics
    assert 'gen_ai_server_token_usage_total{type="output"}' in metrics
    assert "interface" not in json.dumps(daemon.log) + metrics


def _text(daemon: Daemon, path: str) -> str:
    connection = daemon.connect()
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
