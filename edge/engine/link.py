"""A running `edge.engine.child`: its process, its wire, and who waits for which of its messages.

A thread reads the wire and puts each message where its request looks for it, so a request that nobody reads holds up no
other. Whoever waits also looks after the child: one that is stopped, or silent for too long, is killed.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edge import errors
from edge.engine.channel import Channel
from edge.errors import EdgeError, EngineError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_POLL_SEC = 0.5  # how often a silent child is looked at
_END_SEC = 2.0  # what a child may take to end by itself
_TAIL_BYTES = 2000
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MALLOC_ARENA_MAX": "1",  # one thread allocates; more arenas only keep more of what was freed
}

_TIGHT_ENVIRONMENT = {  # a buffer of a step goes back when it is over: 5 MiB less, 1% of the speed
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


class Pending:
    """A request that was sent: its messages in order, buffered until they are asked for."""

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number
        self._messages: queue.SimpleQueue[dict[str, Any] | EdgeError] = queue.SimpleQueue()

    def put(self, message: dict[str, Any] | EdgeError) -> None:
        self._messages.put(message)

    def receive(self) -> dict[str, Any]:
        """The next message.

        :raises EngineError: the child ended, was stopped, hangs, or was closed.
        :raises EdgeError: the request failed.
        """
        while True:
            try:
                message = self._messages.get(timeout=self._link.poll_sec)
            except queue.Empty:
                self._link.look_after()
                continue
            if isinstance(message, EdgeError):
                raise message
            if "error" in message:
                raise getattr(errors, message["error"])(message["message"])
            return message

    @property
    def is_lost(self) -> bool:
        """Whether the child ended by itself, so that another one may well answer."""
        return self._link.ended_by_itself

    def cancel(self) -> None:
        """Ask the child to end it; its last message comes all the same."""
        self._link.send({"do": "cancel", "id": self._number})


class Link:
    """The parent's side of one child.

    :param silence_sec: a child that owes an answer and says nothing for so long is taken for hung and killed.
    :raises EngineError: the process cannot be started.
    """

    def __init__(self, settings: dict[str, Any], silence_sec: float) -> None:
        ours, theirs = socket.socketpair()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `_end`
        try:
            with theirs:
                environment = os.environ | _ENVIRONMENT
                if settings["options"]["tight_memory"]:
                    environment |= _TIGHT_ENVIRONMENT
                settings = settings | {"wire": theirs.fileno(), "parent": os.getpid()}
                self._process = _from_lasting_thread(
                    lambda: subprocess.Popen(
                        [sys.executable, "-m", "edge.engine.child", json.dumps(settings)],
                        stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, pass_fds=[theirs.fileno()],
                        env=environment, start_new_session=True,  # Ctrl-C is for the parent to handle
                    )
                )  # fmt: skip
        except OSError as error:
            ours.close()
            self._log.close()
            raise EngineError(f"the model's process cannot be started: {error}") from error
        self._channel = Channel(ours)
        self._silence_sec = silence_sec
        self._numbers = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._lock = threading.Lock()  # of what is pending; the reader never waits for whoever sends
        self._sending = threading.Lock()
        self._heard = time.monotonic()
        self._is_closed = self._is_given_up = self._has_ended = False
        self._reader = threading.Thread(target=self._read, name="engine-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return not self._has_ended and self._process.poll() is None

    @property
    def ended_by_itself(self) -> bool:
        """Not closed, and not taken for hung."""
        return self._has_ended and not self._is_closed and not self._is_given_up

    @property
    def poll_sec(self) -> float:
        return min(_POLL_SEC, self._silence_sec)

    def request(self, message: dict[str, Any]) -> Pending:
        """Send a request. Where the child is gone, whoever waits for the answer is told."""
        with self._lock:
            number = next(self._numbers)
            pending = Pending(self, number)
            if self._has_ended:
                pending.put(self._error(""))
                return pending
            if not self._pending:
                self._heard = time.monotonic()  # it owed nothing until now
            self._pending[number] = pending
        self.send(message | {"id": number})
        return pending

    def send(self, message: dict[str, Any]) -> None:
        with self._sending:
            try:
                self._channel.send(message)
            except OSError:
                return  # it is gone: the reader finds out, and tells all who wait

    def look_after(self) -> None:
        """Kill the child where it is stopped, or silent for too long."""
        if self._is_stopped or time.monotonic() - self._heard > self._silence_sec:
            self._is_given_up = True
            self._process.kill()

    def close(self) -> None:
        """End the child, and with an error every request that is not answered; wait for that."""
        self._is_closed = True
        self._channel.shut()
        self._reader.join()

    def _read(self) -> None:
        """Hand messages on until the wire closes (the reader's thread)."""
        while True:
            try:
                message = self._channel.receive()
            except (EOFError, OSError):
                break
            assert message is not None  # it waits without a limit
            self._heard = time.monotonic()
            with self._lock:
                number = message["id"]
                # tokens are followed by more; whatever else it says is the last of a request
                found = self._pending.get(number) if "tokens" in message else self._pending.pop(number, None)
            if found is not None:
                found.put(message)
        reason = self._end()
        with self._lock:
            self._has_ended = True
            unanswered, self._pending = list(self._pending.values()), {}
        for pending in unanswered:
            pending.put(self._error(reason))

    def _error(self, reason: str) -> EngineError:
        if self._is_closed:
            return EngineError("the engine was closed while it was in use")
        return EngineError(f"the model's process ended{reason}; ask again, a new one will be started")

    @property
    def _is_stopped(self) -> bool:
        """Whether someone stopped it (SIGSTOP); it would never answer."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] == "T"  # not "t": whoever traces it lets it go on

    def _end(self) -> str:
        """Wait for its end, at last by force; how it ended, in words."""
        try:
            code = self._process.wait(_END_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._sending:
            self._channel.close()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        said = f": {lines[-1].strip()}" if lines else ""
        if code < 0:
            return f" ({signal.Signals(-code).name}){said}"
        return f" (exit code {code}){said}" if code else said


@cache
def _starter() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, "engine-starter")


def _from_lasting_thread(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a child in a thread that lasts as long as this process: the kernel ends the child with that thread."""
    if threading.current_thread() is threading.main_thread():
        return start()
    return _starter().submit(start).result()
