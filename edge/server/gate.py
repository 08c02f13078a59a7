"""Who may use the model next: so many at once, a bounded queue, and turns that go round the clients (pure asyncio)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_WEIGHT = 0.2
"""Of the newest request in the running mean of what one takes."""
_FIRST_GUESS_SEC = 2.0


class Full(Exception):
    """The queue is full, or the wait was too long. `retry_after_sec`: when it may be worth to try again."""

    def __init__(self, message: str, retry_after_sec: float) -> None:
        super().__init__(message)
        self.retry_after_sec = retry_after_sec


@dataclass(eq=False)
class _Waiting:
    client: str
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Gate:
    """At most `slots` requests run; at most `places` wait, each at most `wait_sec`.

    Clients take turns: one that has sent ten requests waits behind the first request of another.
    """

    def __init__(self, slots: int, places: int, wait_sec: float) -> None:
        self.slots, self.places, self.wait_sec = slots, places, wait_sec
        self.running = 0
        self._queues: dict[str, deque[_Waiting]] = {}  # in the order of their turns
        self._holds = 0
        self._mean_sec = _FIRST_GUESS_SEC
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    @property
    def retry_after_sec(self) -> float:
        """When a place should be free, by what requests took lately."""
        return max(1.0, self._mean_sec * (self.waiting + 1) / max(1, self.slots))

    @asynccontextmanager
    async def enter(self, client: str) -> AsyncIterator[float]:
        """Wait for a slot and hold it; yields the seconds waited.

        :raises Full: no place in the queue, or none of the slots was free in time.
        """
        queued = time.monotonic()
        await self._wait(client)
        started = time.monotonic()
        try:
            yield started - queued
        finally:
            self._mean_sec += _WEIGHT * (time.monotonic() - started - self._mean_sec)
            self.running -= 1
            self._next()

    def hold(self) -> None:
        """Let nobody in until `release`, of each who holds; who runs goes on."""
        self._holds += 1

    def release(self) -> None:
        self._holds -= 1
        self._next()

    async def idle(self) -> None:
        """Wait until nobody runs."""
        await self._idle.wait()

    def resize(self, slots: int) -> None:
        self.slots = slots
        self._next()

    async def _wait(self, client: str) -> None:
        if not self._holds and self.running < self.slots and not self._queues:
            self._start()
            return
        if self.waiting >= self.places:
            raise Full(
                f"{self.waiting} requests are waiting, and no more may: try again later, or raise server.queue",
                self.retry_after_sec,
            )
        entry = _Waiting(client)
        self._queues.setdefault(client, deque()).append(entry)
        try:
            async with asyncio.timeout(self.wait_sec):
                await entry.turn
        except TimeoutError:
            if entry.turn.done() and not entry.turn.cancelled():  # its turn came in the same moment
                return
            self._forget(entry)
            raise Full(
                f"the model was not free within {self.wait_sec:g} s: try again later, or raise server.queue_sec",
                self.retry_after_sec,
            ) from None
        except asyncio.CancelledError:
            if entry.turn.done() and not entry.turn.cancelled():
                self.running -= 1
                self._next()
            else:
                self._forget(entry)
            raise

    def _start(self) -> None:
        self.running += 1
        self._idle.clear()

    def _next(self) -> None:
        """Give free slots to the first of each client in turn."""
        while self._queues and not self._holds and self.running < self.slots:
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            entry = queue.popleft()
            if queue:
                self._queues[client] = queue  # behind the others
            if not entry.turn.done():
                entry.turn.set_result(None)
                self._start()
        if self.running == 0:
            self._idle.set()

    def _forget(self, entry: _Waiting) -> None:
        queue = self._queues.get(entry.client)
        if queue is not None and entry in queue:
            queue.remove(entry)
            if not queue:
                del self._queues[entry.client]
