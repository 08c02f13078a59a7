"""A box inside the daemon's own process, for where memory is short: one interpreter less.

The model and the search still run in processes of their own, as `edge ask` has them in little memory. What the box's
own process gives besides is missed: an error in a native library ends the daemon, whose service manager starts it anew.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from edge.memory import release_heap
from edge.server.backend import BoxSettings, error_of
from edge.server.work import BESIDE, Work


class InsideBackend:
    """See `edge.server.backend.Backend`."""

    def __init__(self, settings: BoxSettings) -> None:
        self.settings = settings
        self.state: Mapping[str, Any] = {}
        self._ids = itertools.count(1)
        self._work: Work | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def pid(self) -> int | None:
        return os.getpid() if self._work is not None else None

    async def call(self, do: str, **request: Any) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        work, pool = self._opened(loop)
        number = next(self._ids)
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def send(message: dict[str, Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(messages.put_nowait, message)

        is_over = False
        work.expect(number)
        pool.submit(work.serve, {"id": number, "do": do, **request}, send)
        try:
            while not is_over:
                message = await messages.get()
                is_over = "error" in message or "result" in message
                if "error" in message:
                    raise error_of(message)
                yield message
        finally:
            if not is_over:
                work.cancel(number)

    async def close(self) -> None:
        work, pool = self._work, self._pool
        self._work = self._pool = None
        self.state = {}
        if work is not None and pool is not None:
            await asyncio.to_thread(work.close)  # which ends what runs
            await asyncio.to_thread(pool.shutdown)
            release_heap()

    def _opened(self, loop: asyncio.AbstractEventLoop) -> tuple[Work, ThreadPoolExecutor]:
        if self._work is None or self._pool is None:
            self._work = Work(asdict(self.settings), lambda state: self._told(loop, state))
            self._pool = ThreadPoolExecutor(self._work.sessions + BESIDE, "request")
        return self._work, self._pool

    def _told(self, loop: asyncio.AbstractEventLoop, state: Mapping[str, Any]) -> None:
        def keep() -> None:
            self.state = state

        loop.call_soon_threadsafe(keep)
