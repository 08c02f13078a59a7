"""How fast bytes may move, and how slowly: a limit on the bandwidth taken, and an end to a transfer that crawls."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.deploy.registry.trouble import Trouble

LEAST_RATE = 16 * 2**10
"""Bytes a second; a lower limit than that would look like a transfer that crawls."""
_BURST_SEC = 0.25  # a pause of the other side is made up for by so much, no more


class Limit:
    """Shares out bandwidth over all transfers that it is given to.

    :param rate: bytes a second; None: as fast as it goes.
    """

    def __init__(
        self,
        rate: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._due = 0.0

    @property
    def piece_bytes(self) -> int:
        """How much to move at once, so that the limit holds over short times too."""
        return 2**16 if self._rate is None else max(2**10, min(2**16, self._rate // 8))

    def passed(self, count: int) -> None:
        """So many bytes have moved: wait until the next ones may."""
        if self._rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now - _BURST_SEC) + count / self._rate
        if self._due > now:
            self._sleep(self._due - now)


class Watch:
    """Gives a transfer up that moves fewer than `least` bytes a second, over `window_sec` seconds."""

    def __init__(
        self, least: float, window_sec: float, what: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._least, self._window_sec, self._what, self._clock = least, window_sec, what, clock
        self._since, self._count = clock(), 0

    def passed(self, count: int) -> None:
        """So many bytes have moved.

        :raises Trouble: too few, for too long.
        """
        self._count += count
        spent = self._clock() - self._since
        if spent < self._window_sec:
            return
        if self._count < self._least * spent:
            raise Trouble(f"{self._what} came too slowly: {self._count:,} bytes in {spent:.0f} s")
        self._since, self._count = self._clock(), 0
