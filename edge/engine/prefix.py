"""The prefix cache: generators kept after their request, with the tokens whose keys and values they hold (pure).

The next prompt continues the generator that shares the longest run of first tokens with it, rewound to the end of that
run: the instruction for any question, the passages too for a follow-up on the same documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

LEFT = 2
"""Tokens of a prompt that are always read anew: the last gives the logits, and one alone is read by another kernel."""

G = TypeVar("G")


@dataclass(frozen=True, slots=True)
class Kept(Generic[G]):
    """A generator and the tokens whose keys and values are in its cache, as the model makes them with `adapter`."""

    generator: G
    token_ids: tuple[int, ...]
    adapter: str | None


class PrefixCache(Generic[G]):
    """At most `size` generators; the least recently used goes first.

    :param most: generators that there may be at the same time, kept and in use together; None: `size`, or one.
    """

    def __init__(self, size: int, most: int | None = None) -> None:
        self._size = size
        self._most = max(1, size) if most is None else most
        self._kept: list[Kept[G]] = []  # most recently used last

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, token_ids: Sequence[int], adapter: str | None = None, in_use: int = 0) -> tuple[G, int] | None:
        """The generator to continue and how many of the prompt's tokens it holds; None where a new one should be built.

        It leaves the cache until `put` brings it back, so a request that fails loses only its own. While there is room
        for another, a generator is continued only if it holds more than half of the prompt: what it would lose by
        rewinding may serve another question. At least `LEFT` tokens of the prompt are left to read.
        One that was kept under another adapter is never continued: its keys and values are others.

        :param in_use: generators of requests that are running.
        """
        most = max(0, len(token_ids) - LEFT)
        held = {
            index: min(_shared(kept.token_ids, token_ids), most)
            for index, kept in enumerate(self._kept)
            if kept.adapter == adapter
        }
        if not held:
            return None
        best = max(held, key=held.__getitem__)
        if held[best] * 2 < len(token_ids):  # none is near
            if len(self._kept) + in_use < self._most or 0 not in held:
                return None
            best = 0  # the least recently used is the least loss
        return self._kept.pop(best).generator, held[best]

    def put(self, generator: G, token_ids: Sequence[int], adapter: str | None = None) -> None:
        """Keep a generator after its request; where that is one too many, the least recently used is given up."""
        self._kept.append(Kept(generator, tuple(token_ids), adapter))
        del self._kept[: max(0, len(self._kept) - self._size)]

    def make_room(self, in_use: int = 0) -> None:
        """Give up the least recently used generators where one more than these and those `in_use` is too many."""
        del self._kept[: max(0, len(self._kept) + in_use + 1 - self._most)]

    def clear(self) -> None:
        self._kept.clear()


def _shared(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many first tokens two prompts have in common."""
    for index, (one, other) in enumerate(zip(held, wanted, strict=False)):
        if one != other:
            return index
    return min(len(held), len(wanted))
