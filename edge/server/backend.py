"""The box in a process of its own, as the daemon sees it: started by the first request, ended when nobody asks.

Ending the process is how its memory goes back, all of it: the embedder's and the model's libraries too. It speaks the
wire of `edge.engine.channel`, a JSON object a line; many requests share it, each under its id.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from edge import errors
from edge.errors import EdgeError, EngineError

DAEMON_BYTES = 28 * 2**20
"""Private memory of the daemon's own process with 128 open connections."""
_LINE_BYTES = 64 * 2**20  # of one message, at most: vectors of a large batch
_END_SEC = 5.0
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """What the process opens; paths as text. Files of configuration may change under it: it gets what was read."""

    bundle: str
    index: str
    config: str  # a whole `edge.config.EdgeConfig` as YAML
    documents: str  # folder of documents that came over HTTP, one folder in it for each namespace
    beside_bytes: int  # private memory of the daemon's own process, where that is another one


class Backend(Protocol):
    """A box that answers requests."""

    settings: BoxSettings

    @property
    def pid(self) -> int | None:
        """Process id of whoever works for it; None where nothing is opened."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What the box last said of itself: memory by ledger line, sessions, context; empty while it is closed."""

    def call(self, do: str, **request: Any) -> AsyncIterator[dict[str, Any]]:
        """Send a request; yields its messages, the last of them with the key `result`.

        Leaving the loop early cancels the request. A request never waits for another's reader.

        :raises EdgeError: what the box raised, or an `EngineError` where its process ended.
        """

    async def close(self) -> None:
        """Close the box; what still runs gets an error. The next request opens it anew."""


async def result_of(messages: AsyncIterator[dict[str, Any]]) -> Any:
    """The result of a request that has no stream. Errors as in `Backend.call`."""
    result = None
    async for message in messages:
        result = message.get("result")
    return result


class ProcessBackend:
    """A box in a process of its own; see `Backend`.

    :param on_end: called with the reason where the process ended though nobody asked it to.
    """

    def __init__(self, settings: BoxSettings, on_end: Callable[[str], None] | None = None) -> None:
        self.settings = settings
        self._on_end = on_end
        self._process: _Process | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.is_running else None

    @property
    def state(self) -> Mapping[str, Any]:
        return self._process.state if self._process is not None and self._process.is_running else {}

    async def call(self, do: str, **request: Any) -> AsyncIterator[dict[str, Any]]:
        process = await self._running()
        async for message in process.call(do, request):
            yield message

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    async def _running(self) -> _Process:
        async with self._starting:
            if self._process is None or not self._process.is_running:
                await self.close()
                self._process = await _Process.start(self.settings, self._on_end)
            return self._process


class _Process:
    """One run of `edge.server.child`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_end: Callable[[str], None] | None,
    ) -> None:
        self.state: dict[str, Any] = {}
        self._process, self._reader, self._writer, self._on_end = process, reader, writer, on_end
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._is_ended = False
        self._log = b""
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._keep_log()))

    @classmethod
    async def start(cls, settings: BoxSettings, on_end: Callable[[str], None] | None) -> _Process:
        ours, theirs = socket.socketpair()
        told = {
            "wire": theirs.fileno(),
            "parent": os.getpid(),
            **{name: getattr(settings, name) for name in settings.__slots__},
        }
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "edge.server.child", json.dumps(told),
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                    pass_fds=[theirs.fileno()], start_new_session=True,  # Ctrl-C is for the daemon to handle
                )  # fmt: skip
            reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
        except OSError as error:
            ours.close()
            raise EngineError(f"the box's process cannot be started: {error}") from error
        return cls(process, reader, writer, on_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return not self._is_ended and self._process.returncode is None

    async def call(self, do: str, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        number = next(self._ids)
        queue = self._pending[number] = asyncio.Queue()
        is_over = False
        try:
            self._send({"id": number, "do": do, **request})
            while not is_over:
                message = await queue.get()
                is_over = "error" in message or "result" in message
                if "error" in message:
                    raise error_of(message)
                yield message
        finally:
            del self._pending[number]
            if not is_over:
                self._send({"id": number, "do": "cancel"})

    def _send(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "state" in message:
                    self.state = message["state"]
                elif (queue := self._pending.get(message["id"])) is not None:
                    queue.put_nowait(message)
        except (OSError, ValueError):  # a line beyond the limit is a ValueError
            pass
        finally:
            await self._ended()

    async def _ended(self) -> None:
        was_asked, self._is_ended = self._is_ended, True
        self._writer.close()
        code = await self._process.wait()
        await asyncio.wait([self._tasks[1]], timeout=1.0)
        last = self._log.decode(errors="replace").strip().splitlines()[-1:]
        reason = f"the box's process ended (exit code {code}{': ' + last[0] if last else ''})"
        for queue in self._pending.values():
            queue.put_nowait({"error": "EngineError", "message": f"{reason}; ask again, a new one will be started"})
        if not was_asked and self._on_end is not None:
            self._on_end(reason)

    async def _keep_log(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(4096):
            self._log = (self._log + data)[-_TAIL_BYTES:]

    async def end(self) -> None:
        """Close the wire, which ends the process; by force where it does not."""
        self._is_ended = True
        self._writer.close()
        try:
            async with asyncio.timeout(_END_SEC):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
        await asyncio.gather(*self._tasks)


def error_of(message: Mapping[str, Any]) -> EdgeError:
    """The error that a message stands for."""
    kind = getattr(errors, message["error"], EngineError)
    return kind(message["message"]) if issubclass(kind, EdgeError) else EngineError(message["message"])
