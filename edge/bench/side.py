"""The two sides of a comparison: a `Side` generates, and every side is timed in the same way, from outside.

`Timing` is what a caller sees: the clock starts when the request is handed over, and a token counts when it arrives.
What an engine says about itself (its own time of prefill, tokens from its cache) stands beside that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from edge.bench.text import Sample
from edge.engine.base import Engine, Sampling

_WARM_NEW_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer, timed; seconds since the request was handed over."""

    prompt_tokens: int
    completion_tokens: int
    arrivals_sec: tuple[float, ...]  # of each piece of text; a peer may send several tokens as one piece
    text: str
    prefill_sec: float | None = None  # by the engine's own account; None where it gives none
    cached_tokens: int | None = None  # of the prompt, taken from a cache; None where the engine does not say

    @property
    def ttft_sec(self) -> float:
        return self.arrivals_sec[0]

    @property
    def decode_tok_per_sec(self) -> float | None:
        """Tokens after the first, over the time from the first to the last; None where there are fewer than 8."""
        span = self.arrivals_sec[-1] - self.arrivals_sec[0]
        return (self.completion_tokens - 1) / span if self.completion_tokens >= 8 and span > 0 else None

    @property
    def decode_sec(self) -> float:
        return self.arrivals_sec[-1] - self.arrivals_sec[0]

    @property
    def prefill_tok_per_sec(self) -> float:
        """Prompt tokens that were computed, over the engine's own time of prefill, else the time to first token."""
        return (self.prompt_tokens - (self.cached_tokens or 0)) / (self.prefill_sec or self.ttft_sec)

    @property
    def inter_token_sec(self) -> list[float]:
        """The gaps between arrivals."""
        return [later - earlier for earlier, later in zip(self.arrivals_sec, self.arrivals_sec[1:], strict=False)]


class Side(Protocol):
    """Something that generates."""

    name: str

    def generate(self, prompt: Sample, max_tokens: int, *, reuse: bool = False) -> Timing:
        """Greedy, up to `max_tokens`; `reuse` lets a peer take what it can from its prefix cache.

        :raises EngineError: ours fails.
        :raises PeerError: the peer is down, slow, or answers nonsense.
        """

    def forget(self) -> None:
        """Drop whatever prompts are cached."""


class OwnSide:
    """The bundle's engine, as `edge` uses it, with whatever prefix cache its configuration gives it."""

    name = "edge"

    def __init__(self, engine: Engine, warm_up: Sample) -> None:
        self._engine, self._warm_up = engine, warm_up

    def generate(self, prompt: Sample, max_tokens: int, *, reuse: bool = False) -> Timing:
        arrivals, text = [], []
        started = time.perf_counter()
        session = self._engine.start(prompt.token_ids, Sampling(max_tokens=max_tokens))
        for token in session:
            arrivals.append(time.perf_counter() - started)
            text.append(token.text)
        stats = session.stats
        return Timing(
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.completion_tokens,
            arrivals_sec=tuple(arrivals) or (stats.ttft_sec,),  # a model may end its turn with its first token
            text="".join(text),
            prefill_sec=stats.ttft_sec,
            cached_tokens=stats.cached_tokens,
        )

    def forget(self) -> None:
        """Load the engine anew, and let it settle on a prompt that shares nothing with any other."""
        self._engine.close()
        self._engine.load()
        for _ in self._engine.start(self._warm_up.token_ids, Sampling(max_tokens=_WARM_NEW_TOKENS)):
            pass
