"""Whether the service can answer: asked where its socket unit says, and only while it runs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import service as module
from edge.service.ready import address_of, problems
from edge.service.units import SERVICE, SOCKET

Answer = Callable[[object], str]


@pytest.fixture
def answer(tmp_path: Path) -> Iterator[Answer]:
    """Has a daemon on a Unix socket answer once; gives its address."""
    threads = []

    def start(body: object) -> str:
        data = json.dumps(body).encode()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / f"{len(threads)}.sock"))
        listening.listen()

        def serve() -> None:
            with listening, listening.accept()[0] as connection:
                assert connection.recv(1000).startswith(b"GET /readyz HTTP/1.1\r\n")
                connection.sendall(b"HTTP/1.1 503 x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return str(listening.getsockname())

    yield start
    for thread in threads:
        thread.join(10)


def test_what_a_daemon_lacks(answer: Answer) -> None:
    assert problems(answer({"ready": True, "problems": []})) == []
    assert problems(answer({"ready": False, "problems": ["there is no index"]})) == ["there is no index"]
    assert "no answer" in problems(answer(["something else"]))[0]
    assert "no answer" in problems("/nowhere.sock")[0]
    assert "no answer" in problems("127.0.0.1:1")[0]


def test_where_it_listens(tmp_path: Path) -> None:
    (tmp_path / SOCKET).write_text("[Socket]\nListenStream=[::1]:8642\n")
    assert address_of(tmp_path / SOCKET) == "[::1]:8642"
    assert address_of(tmp_path / "none") is None


def test_status_says_so_and_asks_only_a_service_that_runs(
    tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = answer({"ready": False, "problems": ["there is no index"]})
    (tmp_path / SOCKET).write_text(f"ListenStream={address}\n")
    folders = ["--unit-dir", str(tmp_path), "--sysusers-dir", str(tmp_path)]
    for state, lines in (("inactive", []), ("active", ["not ready  there is no index"])):
        monkeypatch.setattr(module, "_active", lambda state=state: {SOCKET: "active", SERVICE: state})
        done = CliRunner().invoke(module.service, ["status", *folders], standalone_mode=False)
        assert done.return_value == 1
        assert [line for line in done.stdout.splitlines() if "ready" in line] == lines
