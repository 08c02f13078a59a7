"""What a daemon outlives: its model killed, an index damaged, a full disk, no descriptors."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from _daemon import Daemon, Reply, engine_pid, tree

from tests.process.daemons import (
    QUESTION,
    STORY,
    chat,
    daemon_ready,
    events_named,
    eventually,
    put,
)

pytestmark = [pytest.mark.model, pytest.mark.process]


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


def test_an_index_that_somebody_else_writes_to(own_daemon: Daemon, environment: dict[str, str]) -> None:
    writer = sqlite3.connect(Path(environment["EDGE_HOME"]) / "index.db")
    try:
        writer.execute("BEGIN IMMEDIATE")
        assert chat(own_daemon, QUESTION)["choices"][0]["message"]["annotations"]  # readers do not wait for a writer
    finally:
        writer.close()


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
