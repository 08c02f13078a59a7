"""A real daemon for measurements: `edge serve` on a free port, and plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

START_SEC = 60.0


class Reply(Exception):
    """A reply with another status than 200."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}: {body[:300].decode(errors='replace')}")
        self.status, self.body, self.headers = status, body, headers


class Daemon:
    """`edge serve` in a process of its own, ended with the `with` block; its log lines are kept.

    :param command: what runs in front of it, such as a cgroup's `command`.
    """

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, command: Sequence[str] = ()
    ) -> None:
        call = [*command, sys.executable, "-m", "edge", "serve", "--listen", "127.0.0.1:0", *arguments]
        self.log: list[dict[str, Any]] = []
        self._said = threading.Event()
        self.process = subprocess.Popen(
            call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment or os.environ, text=True
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        if not self._said.wait(START_SEC) or self.process.poll() is not None:
            self.stop()
            raise RuntimeError(f"the daemon did not start: {self.log[-3:]}")
        address = next(line["address"] for line in self.log if line.get("event") == "listening")
        self.host, _, port = address.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> int:
        """End it as a service manager does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"text": line.rstrip()})
            if self.log[-1].get("event") == "listening":
                self._said.set()
        self._said.set()

    # -- HTTP ---------------------------------------------------------------------------------------------------

    def connect(self, timeout_sec: float = 120.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_sec)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """A request's JSON.

        :raises Reply: its status is no success.
        """
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            reply = connection.getresponse()
            content = reply.read()
            if reply.status >= 300:
                raise Reply(reply.status, content, {name.lower(): value for name, value in reply.getheaders()})
            return json.loads(content) if content else None
        finally:
            connection.close()

    def stream(self, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> Iterator[tuple[float, Any]]:
        """The events of a stream, each with when it came (`time.monotonic`).

        :raises Reply: the stream did not begin.
        """
        connection = self.connect()
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}).encode())
            reply = connection.getresponse()
            if reply.status != 200:
                raise Reply(reply.status, reply.read(), {name.lower(): value for name, value in reply.getheaders()})
            while line := reply.readline():
                if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                    yield time.monotonic(), json.loads(line[6:])
        finally:
            connection.close()


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found, children = [], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    queue = [pid]
    for one in queue:
        found.append(one)
        queue += children.get(one, [])
    return found


def engine_pid(pid: int) -> int | None:
    """The model's process below a daemon."""
    for one in tree(pid):
        try:
            if b"edge.engine.child" in Path(f"/proc/{one}/cmdline").read_bytes():
                return one
        except OSError:
            continue
    return None
