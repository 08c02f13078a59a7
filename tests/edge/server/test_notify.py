"""systemd's protocols, spoken with a real datagram socket and a real child that is passed descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.server.notify import Notifier, passed_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and its address as NOTIFY_SOCKET has it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@edge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(5)
        yield listening, address


def test_what_the_manager_hears(manager: tuple[socket.socket, str]) -> None:
    listening, address = manager
    environment = {"NOTIFY_SOCKET": address, "HOME": "/"}
    systemd = Notifier.from_environment(environment)
    assert environment == {"HOME": "/"}
    assert systemd.is_heard
    assert systemd.watchdog_sec is None
    before = time.monotonic_ns() // 1000
    assert all([systemd.ready("two\nREADY=0"), systemd.watchdog(), systemd.status("idle"), systemd.stopping(),
                systemd.extend_timeout(1.5), systemd.reloading("bundle")])  # fmt: skip
    heard = [listening.recv(1000).decode() for _ in range(6)]
    assert heard[:5] == ["READY=1\nSTATUS=two READY=0", "WATCHDOG=1", "STATUS=idle", "STOPPING=1",
                         "EXTEND_TIMEOUT_USEC=1500000"]  # fmt: skip
    first, usec, status = heard[5].splitlines()
    assert (first, status) == ("RELOADING=1", "STATUS=bundle")
    assert before <= int(usec.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    systemd.close()
    assert not systemd.ready()


@pytest.mark.parametrize(
    "address", [None, "", "/nowhere/notify", "@edge-nobody", "vsock:2:1", "relative", "/a\0b", "/" * 300]
)
def test_without_a_manager_nothing_fails(address: str | None) -> None:
    systemd = Notifier(address)
    told = [systemd.ready("up"), systemd.watchdog(), systemd.status("x"), systemd.reloading(), systemd.stopping()]
    assert told == [False] * 5
    systemd.close()


def test_a_manager_that_starts_anew_is_told_again(tmp_path: Path) -> None:
    systemd = Notifier(str(tmp_path / "notify"))
    for _ in range(2):
        assert not systemd.ready()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(tmp_path / "notify"))
            assert systemd.ready()
            assert listening.recv(100) == b"READY=1"
        (tmp_path / "notify").unlink()
    systemd.close()


def test_a_manager_that_does_not_read_holds_nobody_up(manager: tuple[socket.socket, str]) -> None:
    systemd = Notifier(manager[1])
    began = time.monotonic()
    while systemd.watchdog():
        assert time.monotonic() - began < 20
    systemd.close()


def test_the_watchdog_is_fed_twice_as_often_as_asked() -> None:
    mine, other = str(os.getpid()), str(os.getpid() + 1)
    asked = [("30000000", mine), ("30000000", None), ("30000000", other), (None, mine), ("0", mine), ("soon", mine),
             ("-1", mine)]  # fmt: skip
    found = []
    for usec, pid in asked:
        environment = {name: value for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)) if value}
        found.append(Notifier.from_environment(environment).watchdog_sec)
        assert not environment
    assert found == [15.0, 15.0, None, None, None, None, None]


CHILD = """
import json, os, subprocess, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from edge.server.notify import passed_sockets
found = passed_sockets()
for passed in found:
    connection, _ = passed.socket.accept()
    connection.sendall(passed.name.encode())
    connection.close()
left = [name for name in os.environ if name.startswith("LISTEN_")]
inherited = subprocess.run([sys.executable, "-c", "import os; os.fstat(3)"], close_fds=False, capture_output=True)
print(json.dumps([passed_sockets() == [], left, inherited.returncode != 0]))
"""


@pytest.mark.parametrize(("names", "heard"), [("edge.socket:local", ["edge.socket", "local"]), (None, ["unknown"] * 2)])
def test_a_child_answers_on_the_sockets_it_was_passed(tmp_path: Path, names: str | None, heard: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        # A shell puts the descriptors where the protocol wants them: 3 and 4.
        script = f'exec 8<&{tcp.fileno()} 9<&{unix.fileno()}; exec 3<&8 4<&9 8<&- 9<&-; exec "$0" -c "$1"'
        environment = os.environ | {"LISTEN_FDS": "2"} | ({"LISTEN_FDNAMES": names} if names else {})
        child = subprocess.Popen(
            ["bash", "-c", script, sys.executable, CHILD],
            pass_fds=(tcp.fileno(), unix.fileno()), env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = []
        for family, address in ((socket.AF_INET, tcp.getsockname()), (socket.AF_UNIX, str(tmp_path / "socket"))):
            with socket.socket(family) as client:
                client.settimeout(20)
                client.connect(address)
                said.append(client.recv(100).decode())
        out, _ = child.communicate(timeout=20)
    assert said == heard
    assert out.strip() == "[true, [], true]"


def test_sockets_of_another_process_are_left_alone() -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDNAMES": "a", "HOME": "/"}
    assert passed_sockets(environment) == []
    assert environment == {"HOME": "/"}
    assert passed_sockets({}) == []
    assert passed_sockets({"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())}) == []


UNUSABLE = """
import os, socket, sys
kind = sys.argv[1]
if kind == "file":
    given = os.open("/dev/null", os.O_RDONLY)
else:
    given = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM).detach()
if given != 3:
    os.dup2(given, 3)
from edge.errors import ConfigError
from edge.server.notify import passed_sockets
try:
    passed_sockets({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["file", "datagram", "not listening"])
def test_what_is_no_listening_socket_is_named(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", UNUSABLE, kind], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "descriptor 3 (unknown), passed by the service manager, is no listening stream socket"
    )
