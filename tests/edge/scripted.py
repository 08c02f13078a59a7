"""An engine that says what a test tells it to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge.engine.base import Message, Sampling, Stats
from edge.types import Token


class Scripted:
    """An engine that answers with the given words, a word a token; several replies are given in turn."""

    context_tokens = 200

    def __init__(self, reply: str, *more: str) -> None:
        self.replies = (reply, *more)
        self.prompts: list[str] = []
        self.limits: list[int] = []
        self.adapters: list[str | None] = []

    def encode(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def render(self, messages: Sequence[Message]) -> str:
        self.prompts.append("\n".join(message.content for message in messages))
        return self.prompts[-1]

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> ScriptedSession:
        self.adapters.append(adapter)
        self.limits.append(sampling.max_tokens)
        return ScriptedSession(self.replies[(len(self.limits) - 1) % len(self.replies)], len(token_ids))

    def load(self, *, wait: bool = True) -> None: ...

    def close(self) -> None: ...


class ScriptedSession:
    def __init__(self, reply: str, prompt_tokens: int) -> None:
        self._words, self.first = reply.split(" "), 0
        self.stats = Stats(prompt_tokens, 0, len(self._words), 0.1, 10.0, "stop")

    def __iter__(self) -> Iterator[Token]:
        for number, word in enumerate(self._words):
            yield Token(self.first + number, word if number == 0 else f" {word}")

    def cancel(self) -> None: ...
