"""Stop strings in a stream of tokens (pure): an answer ends before the first of them, wherever tokens begin and end.

A token is held back while its text may be the beginning of a stop string.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edge.types import Token


class StopFilter:
    """Lets tokens through as soon as they are certain to stand before every stop string.

    The string that is complete first ends the answer; of several that end at the same character, the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held: list[Token] = []
        self.found = False

    def push(self, token: Token) -> list[Token]:
        """The tokens that are certain now. Where a stop string is complete, what stands before it, and `found` is set.

        The last of these may be cut: its text ends where the stop string begins.
        """
        if not self._stops:
            return [token]
        self._held.append(token)
        text = "".join(held.text for held in self._held)
        if (cut := _cut(text, self._stops)) is not None:
            self.found = True
            return self._take(cut, cut_last=True)
        return self._take(len(text) - _may_begin(text, self._stops))

    def flush(self) -> list[Token]:
        """What is still held, at the end of the answer."""
        held, self._held = self._held, []
        return held

    def _take(self, length: int, *, cut_last: bool = False) -> list[Token]:
        """Tokens that end within the first `length` characters held; `cut_last` adds part of one, drops the rest."""
        taken, end = [], 0
        while self._held and end + len(self._held[0].text) <= length:
            token = self._held.pop(0)
            end += len(token.text)
            taken.append(token)
        if cut_last:
            if end < length:
                last = self._held[0]
                taken.append(dataclasses.replace(last, text=last.text[: length - end]))
            self._held = []
        return taken


def _cut(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string that is complete first begins; None where there is none."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _may_begin(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that a stop string may begin with."""
    longest = min(len(text), max(map(len, stops)) - 1)
    return next((size for size in range(longest, 0, -1) if any(stop.startswith(text[-size:]) for stop in stops)), 0)
