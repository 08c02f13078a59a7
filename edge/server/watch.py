"""Whether a bundle that was just swapped in does its work: by its first requests, against those before it. (pure)"""

from __future__ import annotations

import statistics
from collections import deque

LEAST = 3
"""Failures, or answers, that a verdict needs."""
SLOWER = 3.0
"""Times the median time to the first token of the bundle before that are too many."""
FAULTS = ("EngineError", "BundleError", "BudgetExceeded", "Timeout")
"""Errors that are the bundle's, not the question's."""


class Watch:
    """Counts requests; the first so many after `begin` decide.

    :param requests: how many; 0: none is watched.
    :param seconds: how long after `begin`, at most.
    """

    def __init__(self, requests: int, seconds: float) -> None:
        self._requests, self._seconds = requests, seconds
        self._before: deque[float] = deque(maxlen=max(1, requests))
        self._after: list[float] = []
        self._seen = self._failed = 0
        self._until: float | None = None

    @property
    def is_on(self) -> bool:
        return self._until is not None

    def begin(self, now: float) -> None:
        """Another bundle serves from now on."""
        self._after, self._seen, self._failed = [], 0, 0
        self._until = now + self._seconds if self._requests else None

    def ended(self, now: float, error: str, first_sec: float | None) -> str | None:
        """A request ended; returns why the bundle has to go, where it has.

        :param error: class of its error, "" where there was none.
        :param first_sec: time to its first token, where there was one.
        """
        if self._until is None:
            if not error and first_sec is not None:
                self._before.append(first_sec)
            return None
        self._seen += 1
        self._failed += error in FAULTS
        if not error and first_sec is not None:
            self._after.append(first_sec)
        if self._failed >= LEAST and 2 * self._failed >= self._seen:
            self._until = None
            return f"{self._failed} of its first {self._seen} requests failed ({error or 'the last one did not'})"
        if self._seen < self._requests and now < self._until:
            return None
        self._until = None
        return self._slow()

    def _slow(self) -> str | None:
        if min(len(self._before), len(self._after)) < LEAST:
            return None
        before, after = statistics.median(self._before), statistics.median(self._after)
        if after <= SLOWER * before:
            self._before.extend(self._after)
            return None
        return f"its first tokens take {after:.2f} s, those of the bundle before took {before:.2f} s (medians)"
