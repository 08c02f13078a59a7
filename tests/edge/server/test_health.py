"""The health check of a container: alive only where the daemon says 200."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.server.health import problem

ANSWERS = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok": None,
    b"HTTP/1.1 503 Service Unavailable\r\n\r\n": "503",
    b"SSH-2.0-OpenSSH 200\r\n": "SSH",
    b"": "nothing",
}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("answer", list(ANSWERS))
def test_what_a_daemon_says(tmp_path: Path, family: socket.AddressFamily, answer: bytes) -> None:
    with socket.socket(family) as listening:
        listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "socket"))
        listening.listen()
        name = listening.getsockname()
        address = f"unix:{name}" if family == socket.AF_UNIX else f"{name[0]}:{name[1]}"

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(1000).startswith(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        found = problem(address)
        thread.join()
    expected = ANSWERS[answer]
    assert found is None if expected is None else expected in (found or "")


def test_nobody_is_there(tmp_path: Path) -> None:
    assert "no answer" in (problem(f"unix:{tmp_path / 'socket'}") or "")
    done = subprocess.run(
        [sys.executable, "-m", "edge.server.health", "127.0.0.1:none"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "127.0.0.1:none: no answer" in done.stderr
