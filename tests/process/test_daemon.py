"""`edge serve` as a process: a real daemon, the real model, plain HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from _daemon import Daemon, Reply, engine_pid, tree  # noqa: E402

from edge.machine import status_bytes  # noqa: E402

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTION = "Which port does the web interface use?"
STORY = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and her dog."}]
IDLE_RSS_BYTES = 45_000_000


@pytest.fixture
def environment(sample_home: Path, tmp_path: Path) -> dict[str, str]:
    """A home folder of its own: the default bundle, and a copy of the sample index."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", home / "index.db")
    return {**os.environ, "EDGE_HOME": str(home)}


@pytest.fixture
def own_daemon(environment: dict[str, str]) -> Iterator[Daemon]:
    """For tests that look at its start, or at its files."""
    with Daemon(environment=environment) as running:
        yield running


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Daemon:
    """For tests that leave it as it was."""
    return shared_daemon


def configure(environment: dict[str, str], **server: Any) -> None:
    text = json.dumps({"server": server})  # JSON is YAML
    (Path(environment["EDGE_HOME"]) / "config.yaml").write_text(text)


def chat(daemon: Daemon, text: str, model: str = "edge+rag", **more: Any) -> Any:
    asked = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return daemon.call("POST", "/v1/chat/completions", asked)


def eventually(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def events_named(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log if line.get("event") == name]


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


def put(daemon: Daemon, name: str, text: bytes, **headers: str) -> None:
    daemon.call("PUT", f"/v1/index/documents/{name}", text, headers)

    def is_ready() -> bool:
        found = daemon.call("GET", f"/v1/index/documents/{name}", None, headers)
        assert found["status"] != "failed", found
        return bool(found["status"] == "ready")

    eventually(is_ready)


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


def test_the_model_killed_in_a_stream_costs_that_stream(daemon: Daemon) -> None:
    for after in (1, 7):
        last: Any = None
        asked = {"model": "edge", "max_tokens": 400, "temperature": 1.0, "seed": after, "messages": STORY}
        for number, (_, event) in enumerate(daemon.stream(asked)):
            last = event
            if number == after:
                pid = engine_pid(daemon.pid)
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
        assert "ask again" in last["error"]["message"]
        assert chat(daemon, "Hi", "edge", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_the_box_killed_in_a_stream_costs_that_stream(daemon: Daemon) -> None:
    stream = daemon.stream({"model": "edge", "max_tokens": 400, "temperature": 1.0, "messages": STORY})
    next(stream)
    box = next(pid for pid in tree(daemon.pid) if b"edge.server.child" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(box, signal.SIGKILL)
    assert "ask again" in list(stream)[-1][1]["error"]["message"]
    assert chat(daemon, QUESTION)["choices"][0]["message"]["annotations"]
    assert events_named(daemon, "box_ended")


def test_sigterm_lets_answers_end_and_keeps_what_was_accepted(environment: dict[str, str]) -> None:
    with Daemon(environment=environment) as daemon:
        chat(daemon, "Hi", "edge", max_tokens=1)
        stream = daemon.stream({"model": "edge", "max_tokens": 40, "temperature": 1.0, "seed": 1, "messages": STORY})
        next(stream)
        daemon.call("PUT", "/v1/index/documents/late.md", b"# Late\n\nThe ferry to Skarv leaves at 06:20.\n")
        daemon.process.send_signal(signal.SIGTERM)
        assert list(stream)[-1][1]["choices"][0]["finish_reason"] in ("length", "stop")
        assert daemon.process.wait(40) == 0
    with Daemon(environment=environment) as daemon:
        eventually(lambda: daemon.call("GET", "/v1/index/documents/late.md")["status"] == "ready")
        assert "06:20" in json.dumps(chat(daemon, "When does the ferry to Skarv leave?"))


def test_at_the_deadline_a_stream_gets_a_last_event(environment: dict[str, str]) -> None:
    configure(environment, drain_sec=1.0)
    with Daemon(environment=environment) as daemon:
        stream = daemon.stream({"model": "edge", "max_tokens": 1900, "temperature": 1.5, "seed": 3, "messages": STORY})
        next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        last = list(stream)[-1][1]
        assert "ending" in last["error"]["message"] or last["choices"][0]["finish_reason"] == "stop"
        assert daemon.process.wait(20) == 0


def test_sighup_swaps_the_bundle_and_no_request_fails(environment: dict[str, str], sample_home: Path) -> None:
    home = Path(environment["EDGE_HOME"])
    with Daemon(environment=environment) as daemon:
        before = daemon.call("GET", "/v1/status")["bundle"]
        chat(daemon, "Hi", "edge", max_tokens=1)
        other = home / "other"
        shutil.copytree(sample_home / "bundle", other, symlinks=False)
        manifest = other / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace("version: 1.0.0", "version: 1.0.1"))
        _sign(other)
        failures: list[str] = []
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                try:
                    chat(daemon, "Hi", "edge", max_tokens=3)
                except (Reply, OSError) as error:
                    failures.append(str(error))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        (home / "current").symlink_to(other)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: bool(events_named(daemon, "reloaded")), 60)
        time.sleep(1.0)
        is_over.set()
        for client in clients:
            client.join(60)
        assert failures == []
        assert daemon.call("GET", "/v1/status")["bundle"] != before


def _sign(bundle: Path) -> None:
    """The digest beside a manifest that was changed."""
    import hashlib

    digest = hashlib.sha256((bundle / "manifest.yaml").read_bytes()).hexdigest()
    (bundle / "manifest.yaml.sha256").write_text(f"{digest}  manifest.yaml\n")


def test_a_reload_that_cannot_be_done_changes_nothing(environment: dict[str, str]) -> None:
    with Daemon(environment=environment) as daemon:
        (Path(environment["EDGE_HOME"]) / "config.yaml").write_text("server: {nonsense: 1}")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: bool(events_named(daemon, "reload_failed")))
        assert "nonsense" in events_named(daemon, "reload_failed")[0]["error"]
        assert chat(daemon, "Hi", "edge", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_the_model_s_memory_goes_back_when_nobody_asks(environment: dict[str, str]) -> None:
    configure(environment, keep_alive_sec=0.5)
    with Daemon(environment=environment) as daemon:
        chat(daemon, QUESTION)
        assert len(tree(daemon.pid)) >= 3
        eventually(lambda: len(tree(daemon.pid)) == 1, 15)
        assert status_bytes("VmRSS", daemon.pid) < IDLE_RSS_BYTES
        assert chat(daemon, QUESTION)["choices"][0]["message"]["annotations"]


def test_two_daemons_on_one_index(own_daemon: Daemon, environment: dict[str, str]) -> None:
    call = [sys.executable, "-m", "edge", "serve", "--listen", "127.0.0.1:0"]
    second = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "another daemon serves" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--listen", "0.0.0.0:0"], 1, "can be reached from other machines"),
        (["--listen", "nonsense"], 2, "HOST:PORT"),
        (["--listen", "203.0.113.1:1", "--insecure"], 1, "cannot listen there"),
        (["--listen", "unix:/proc/nowhere/socket"], 1, "cannot listen there"),
        (["--bundle", "/nowhere"], 1, "nowhere"),
        (["--state", "/proc/nowhere"], 1, "--state"),
    ],
)
def test_a_start_that_cannot_be_is_told(
    environment: dict[str, str], arguments: list[str], code: int, text: str
) -> None:
    call = [sys.executable, "-m", "edge", "serve", *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_that_is_deleted_or_damaged_while_it_runs(own_daemon: Daemon, environment: dict[str, str]) -> None:
    index = Path(environment["EDGE_HOME"]) / "index.db"
    kept = index.read_bytes()
    assert chat(own_daemon, QUESTION)["choices"][0]["message"]["annotations"]
    index.write_bytes(b"nonsense" * 4096)
    for file in index.parent.glob("index.db-*"):
        file.unlink()
    statuses = set()
    for _ in range(3):
        try:
            chat(own_daemon, QUESTION)
            statuses.add(200)
        except Reply as reply:
            statuses.add(reply.status)
            assert reply.status == 503
    assert 503 in statuses
    assert chat(own_daemon, "Hi", "edge", max_tokens=1)["usage"]["completion_tokens"] == 1  # the model needs no index
    index.unlink()
    assert daemon_ready(own_daemon) is False
    index.write_bytes(kept)
    eventually(lambda: daemon_ready(own_daemon))
    assert chat(own_daemon, QUESTION)["choices"][0]["message"]["annotations"]


def daemon_ready(daemon: Daemon) -> bool:
    try:
        return bool(daemon.call("GET", "/readyz")["ready"])
    except Reply as reply:
        assert reply.status == 503
        return False


def test_an_index_that_somebody_else_writes_to(own_daemon: Daemon, environment: dict[str, str]) -> None:
    writer = sqlite3.connect(Path(environment["EDGE_HOME"]) / "index.db")
    try:
        writer.execute("BEGIN IMMEDIATE")
        assert chat(own_daemon, QUESTION)["choices"][0]["message"]["annotations"]  # readers do not wait for a writer
    finally:
        writer.close()


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


def test_a_full_disk_refuses_documents_and_answers_go_on(environment: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "small"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(state)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with Daemon("--state", str(state), environment=environment) as daemon:
            with pytest.raises(Reply, match="free room on the disk") as told:
                daemon.call("PUT", "/v1/index/documents/big.txt", b"word " * 200_000)
            assert told.value.status == 503
            assert daemon.call("GET", "/v1/index/documents")["data"] == []
            assert daemon_ready(daemon) is False
            assert chat(daemon, QUESTION)["choices"][0]["message"]["annotations"]
            put(daemon, "small.md", b"# Small\n\nThe smallest buoy is called Tern.\n")
            assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", str(state)], check=True)


def test_descriptors_that_run_out_come_back(environment: dict[str, str]) -> None:
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("no prlimit here")
    with Daemon(environment=environment, command=[prlimit, "--nofile=48"]) as daemon:
        held = []
        for _ in range(80):
            one = socket.create_connection((daemon.host, daemon.port), 5)
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            held.append(one)
        time.sleep(1.5)
        assert daemon.process.poll() is None
        for one in held:
            one.close()
        eventually(lambda: bool(daemon.call("GET", "/healthz")["status"] == "ok"))
        assert chat(daemon, "Hi", "edge", max_tokens=1)["usage"]["completion_tokens"] == 1
