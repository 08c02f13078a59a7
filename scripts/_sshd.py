"""Boxes for demonstrations and tests: several sshd on this machine, each with a folder of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")

_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""

_CLIENT = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "LogLevel=ERROR")


class Boxes:
    """`count` SSH hosts on free ports of 127.0.0.1, box1 to boxN, for the user who runs this; `stop` unplugs one."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.names = folder, [f"box{number}" for number in range(1, count + 1)]
        self.ports: dict[str, int] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "user"):
            path = self.folder / name
            if not path.exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        if getpass.getuser() == "root":
            Path("/run/sshd").mkdir(exist_ok=True)
        for name in self.names:
            self.home(name).mkdir(exist_ok=True)
            self.ports[name] = _free_port()
            self.start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._running):
            self.stop(name)

    def home(self, name: str) -> Path:
        return self.folder / name

    def start(self, name: str) -> None:
        assert SSHD is not None, "there is no sshd: install openssh-server"
        config = self.folder / f"{name}.sshd"
        config.write_text(_CONFIG.format(port=self.ports[name], folder=self.folder))
        self._running[name] = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.ports[name])) == 0:
                    return
            if time.monotonic() > until:
                raise TimeoutError(f"sshd of {name} does not listen")
            time.sleep(0.02)

    def stop(self, name: str) -> None:
        """No connection stays: each is a process below sshd, in a session of its own."""
        process = self._running.pop(name)
        below = _below(process.pid)
        process.kill()
        process.wait(10)
        for one in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def inventory(
        self, python: str, command: Sequence[str], more: dict[str, dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """For Ansible. `more`: variables of single boxes."""
        hosts = {
            name: {"ansible_port": self.ports[name], "edge_home": str(self.home(name)), **(more or {}).get(name, {})}
            for name in self.names
        }
        shared = {
            "ansible_host": "127.0.0.1",
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(self.folder / "user"),
            "ansible_ssh_common_args": " ".join(f"-o {option}" for option in _CLIENT),
            "ansible_python_interpreter": python,
            "edge_command": list(command),
        }
        return {"all": {"hosts": hosts, "vars": shared}}


def _below(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in children for one in (child, *_below(child))]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
