"""The engine in a process of its own: unloading ends it, and whatever goes wrong in native code costs one request.

The child is started on first use and again after a crash; `edge.engine.child` is its side of the wire. It is never
waited for without end: a child that is stopped, or silent for too long, is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edge import errors
from edge.engine.base import EngineOptions, Message, Sampling, Stats, check_adapter, check_fits
from edge.engine.channel import Channel
from edge.errors import EngineError
from edge.types import Token

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_POLL_SEC = 0.5  # how often a silent child is looked at
_END_SEC = 2.0  # what a child may take to end by itself
_TAIL_BYTES = 2000
_ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MALLOC_ARENA_MAX": "1",  # one thread allocates; more arenas only keep more of what was freed
}


class WorkerEngine:
    """The engine of `edge.engine.base` over a child process. One request runs at a time; others wait for it.

    :param folder: genai_config.json, tokenizer and weights.
    :param template: the chat template's text (Jinja).
    :param adapters: files of adapters by name.
    :param silence_sec: a child that says nothing for so long, loading included, is taken for hung and killed.
    """

    def __init__(
        self,
        folder: Path,
        template: str,
        stop_tokens: Sequence[int],
        options: EngineOptions,
        *,
        adapters: Mapping[str, Path] | None = None,
        silence_sec: float = 120.0,
    ) -> None:
        self.context_tokens = options.context_tokens
        self._adapters = {name: str(path.absolute()) for name, path in (adapters or {}).items()}
        self._settings = {
            "folder": str(folder.absolute()),
            "template": template,
            "stop_tokens": list(stop_tokens),
            "options": asdict(options),
            "adapters": self._adapters,
        }
        self._silence_sec = silence_sec
        self._lock = threading.RLock()  # held for the whole of a request
        self._child: _Child | None = None
        self._is_loading = False

    @property
    def pid(self) -> int | None:
        """The child's process id, or None where none runs."""
        child = self._child
        return child.pid if child is not None and child.is_running else None

    def encode(self, text: str) -> list[int]:
        return list(self._ask({"do": "encode", "text": text})["token_ids"])

    def render(self, messages: Sequence[Message]) -> str:
        return str(self._ask({"do": "render", "messages": [asdict(turn) for turn in messages]})["text"])

    def load(self, *, wait: bool = True) -> None:
        """Load the weights now rather than on the first request.

        :param wait: false lets the child load while this process does something else.
        :raises EngineError: they are damaged, or memory ran out; without `wait` the next call says so.
        """
        with self._lock:
            self._send({"do": "load"})
            self._is_loading = True
            if wait:
                self._settle()

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> WorkerSession:
        check_adapter(adapter, self._adapters)
        check_fits(len(token_ids), self.context_tokens)
        return WorkerSession(self, token_ids, sampling, adapter)

    def close(self) -> None:
        """End the child: all its memory goes back to the system. The next use starts another."""
        with self._lock:
            if self._child is not None:
                self._child.end()
            self._child, self._is_loading = None, False

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._send(request)
            return self._receive()

    def _send(self, request: dict[str, Any]) -> None:
        """Send a request to the child; to a new one where there is none, or it ended in the meantime."""
        self._settle()
        if self._child is None or not self._child.is_running:
            self.close()
            self._child = _Child(self._settings)
        try:
            self._child.channel.send(request)
        except OSError:
            raise self._ended() from None

    def _settle(self) -> None:
        """Wait for the answer to a `load` that was not waited for."""
        if self._is_loading:
            self._is_loading = False
            self._receive()

    def _receive(self) -> dict[str, Any]:
        """The child's next message that says something.

        :raises EngineError: the child ended, was stopped, hangs, or reports an error of its own.
        """
        child = self._child
        if child is None:
            raise EngineError("the engine was closed while it was in use")
        heard = time.monotonic()
        while True:
            try:
                message = child.channel.receive(min(_POLL_SEC, self._silence_sec))
            except (EOFError, OSError):
                raise self._ended() from None
            if message is None:
                if child.is_stopped or time.monotonic() - heard > self._silence_sec:
                    child.kill()
                    raise self._ended()
            elif "error" in message:
                raise getattr(errors, message["error"])(message["message"])
            elif "alive" in message:
                heard = time.monotonic()
            else:
                return message

    def _ended(self) -> EngineError:
        """The error for a child that is gone; the next request starts another."""
        child, self._child, self._is_loading = self._child, None, False
        reason = child.end() if child is not None else ""
        return EngineError(f"the model's process ended{reason}; ask again, a new one will be started")


class WorkerSession:
    """One request in the child. See `edge.engine.base.Session`."""

    def __init__(self, engine: WorkerEngine, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> None:
        self._engine, self._token_ids, self._sampling = engine, list(token_ids), sampling
        self._adapter = adapter
        self._is_cancelled = self._is_running = False
        self._stats: Stats | None = None

    def cancel(self) -> None:
        self._is_cancelled = True
        child = self._engine._child
        if self._is_running and child is not None:
            try:
                child.channel.send({"do": "cancel"})
            except OSError:
                return  # it is gone: whoever reads the stream is told

    @property
    def stats(self) -> Stats:
        return self._stats or Stats(len(self._token_ids), 0, 0, 0.0, 0.0, "cancelled")

    def __iter__(self) -> Iterator[Token]:
        with self._engine._lock:
            if self._is_cancelled:
                return
            sampling = asdict(self._sampling)
            request = {"do": "generate", "token_ids": self._token_ids, "sampling": sampling, "adapter": self._adapter}
            self._engine._send(request)
            self._is_running = True
            try:
                while "stats" not in (message := self._engine._receive()):
                    if not self._is_cancelled:
                        yield Token(message["id"], message["text"])
                self._stats = Stats(**message["stats"])
            except GeneratorExit:  # whoever reads the stream has had enough
                self.cancel()
                while "stats" not in (message := self._engine._receive()):
                    pass
                self._stats = Stats(**message["stats"])
                raise
            finally:
                self._is_running = False


@cache
def _starter() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, "engine-starter")


def _from_lasting_thread(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a child in a thread that lasts as long as this process: the kernel ends the child with that thread."""
    if threading.current_thread() is threading.main_thread():
        return start()
    return _starter().submit(start).result()


class _Child:
    """A running `edge.engine.child`, its wire and what it wrote to stderr."""

    def __init__(self, settings: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `end`
        try:
            with theirs:
                settings = settings | {"wire": theirs.fileno(), "parent": os.getpid()}
                self._process = _from_lasting_thread(
                    lambda: subprocess.Popen(
                        [sys.executable, "-m", "edge.engine.child", json.dumps(settings)],
                        stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, pass_fds=[theirs.fileno()],
                        env=os.environ | _ENVIRONMENT, start_new_session=True,  # Ctrl-C is for the parent to handle
                    )
                )  # fmt: skip
        except OSError as error:
            ours.close()
            self._log.close()
            raise EngineError(f"the model's process cannot be started: {error}") from error
        self.channel = Channel(ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def is_stopped(self) -> bool:
        """Whether someone stopped it (SIGSTOP); it would never answer."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] == "T"  # not "t": whoever traces it lets it go on

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """Wait for its end, at last by force; how it ended, in words."""
        self.channel.close()
        try:
            code = self._process.wait(_END_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.close()
        said = f": {lines[-1].strip()}" if lines else ""
        if code < 0:
            return f" ({signal.Signals(-code).name}){said}"
        return f" (exit code {code}){said}" if code else said
