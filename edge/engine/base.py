"""What an engine is: a loaded model that runs sessions. One `Session` is one request.

with open_engine(bundle, threads=2) as engine:
    session = engine.start(token_ids, Sampling(max_tokens=96))
    for token in session:
        print(token.text, end="")
    print(session.stats)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edge.types import Token

FinishReason = Literal["stop", "length", "cancelled", "repetition"]
"""stop: the model ended its turn; length: `max_tokens` or the context is used up; cancelled: `Session.cancel`;
repetition: whoever reads the stream ended it, because the model repeated itself."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as the bundle's chat template takes it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The default is greedy: same prompt, same answer."""

    max_tokens: int = 128
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and times of one session; times in seconds, rates in tokens per second."""

    prompt_tokens: int
    completion_tokens: int
    ttft_sec: float  # from the start of prefill to the first token
    decode_tok_per_sec: float  # of the tokens after the first; 0 where there was none
    finish_reason: FinishReason


class Session(Protocol):
    """One request. Iterate once; `stats` is complete after the last token."""

    def __iter__(self) -> Iterator[Token]: ...

    def cancel(self) -> None:
        """End the stream before its next token."""

    @property
    def stats(self) -> Stats: ...


class Engine(Protocol):
    """A loaded model."""

    context_tokens: int  # prompt and answer together, at most

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it are taken as such."""

    def render(self, messages: Sequence[Message]) -> str:
        """The bundle's chat template applied to `messages`, ready for the assistant's turn."""

    def load(self) -> None:
        """Load the weights now rather than on the first request.

        :raises EngineError: they are damaged, or memory ran out.
        """

    def start(self, token_ids: Sequence[int], sampling: Sampling) -> Session:
        """Begin a request.

        :raises PromptTooLong: the prompt leaves no room for an answer.
        :raises EngineError: the model fails.
        """

    def close(self) -> None:
        """Give the model's memory back."""
