"""What an engine is: a loaded model that runs sessions. One `Session` is one request.

with WorkerEngine(bundle.path, bundle.manifest.model) as engine:
    session = engine.start(token_ids, Sampling(max_tokens=96))
    for token in session:
        print(token.text, end="")
    print(session.stats)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from edge.engine.schemas import check_schema
from edge.errors import PromptTooLong, UsageError
from edge.types import Token

FinishReason = Literal["stop", "length", "cancelled", "repetition"]
"""stop: the model ended its turn, or wrote a stop string; length: `max_tokens` or the context is used up; cancelled:
`Session.cancel`; repetition: whoever reads the stream ended it, because the model repeated itself."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as the bundle's chat template takes it."""

    role: Literal["system", "user", "assistant"]
    content: str


GuidanceKind = Literal["json_schema", "regex", "lark_grammar"]
MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the whole answer must match. Tokens that would break it are never chosen, whatever the temperature.

    An answer that `max_tokens` cuts off is only the beginning of what matches; its finish reason is "length".
    """

    kind: GuidanceKind
    text: str  # a JSON schema, a regular expression (without look-around), or a grammar in Lark's notation


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, and where the answer ends. The default is greedy: same prompt, same answer."""

    max_tokens: int = 128
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()  # the answer ends before the first of these
    guidance: Guidance | None = None
    logprobs: int | None = None  # of each token and of so many alternatives, up to `MOST_LOGPROBS`; None: none


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and times of one session; times in seconds, rates in tokens per second."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from the prefix cache
    completion_tokens: int
    ttft_sec: float  # from the start of prefill to the first token
    decode_tok_per_sec: float  # of the tokens after the first; 0 where there was none
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model is run on this box; `edge.config.EngineConfig` and the memory budget decide."""

    context_tokens: int  # prompt and answer together; what a kept generator's keys and values are allocated for
    threads: int = 0  # 0: the cores this process may use (the library's own default is half of them)
    prefill_chunk_tokens: int = 64  # tokens read in one piece
    prefix_caches: int = 1  # generators kept for the next request; 0 builds one per request
    draft_tokens: int = 0  # most tokens guessed ahead from what the prompt says; 0 is no speculation
    draft_ngram: int = 3  # tokens that must match before the prompt is taken as a guess
    sessions: int = 1  # requests that generate at the same time; the next waits for one of them to end
    guided: bool = True  # whether there is memory for `Sampling.guidance`: some 44 MiB from its first use on
    tight_memory: bool = False  # the budget holds little more than what is used: see edge.mapped
    provider: str = ""  # ONNX Runtime's name of the accelerator that runs the model's folder; empty: the CPU


class Session(Protocol):
    """One request. Iterate once; `stats` is complete after the last token."""

    def __iter__(self) -> Iterator[Token]:
        """The answer, token by token.

        :raises UsageError: `Sampling.guidance` cannot be enforced; before the first token.
        :raises EngineError: the model fails.
        """

    def cancel(self) -> None:
        """End the stream before its next token, and prefill before its next piece."""

    @property
    def stats(self) -> Stats: ...


class Engine(Protocol):
    """A loaded model."""

    context_tokens: int  # prompt and answer together, at most

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it are taken as such."""

    def render(self, messages: Sequence[Message]) -> str:
        """The bundle's chat template applied to `messages`, ready for the assistant's turn."""

    def load(self, *, wait: bool = True) -> None:
        """Load the weights now rather than on the first request.

        :param wait: false lets an engine in another process load while this one does something else.
        :raises EngineError: they are damaged, or memory ran out; without `wait` the next call may say so instead.
        """

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> Session:
        """Begin a request.

        :param adapter: one of the bundle's; None is the model without.
        :raises UsageError: there is no such adapter, or `sampling` asks for what cannot be.
        :raises BudgetExceeded: it asks for guidance, and no memory was set aside for that.
        :raises PromptTooLong: the prompt leaves no room for an answer.
        :raises EngineError: the model fails.
        """

    def close(self) -> None:
        """Give the model's memory back; the next use loads it again."""


def check_fits(prompt_tokens: int, context_tokens: int) -> None:
    """Refuse a prompt that leaves no room for an answer.

    :raises PromptTooLong: says by how many tokens.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens and the context is {context_tokens}: "
            f"shorten it by {1 - room} tokens or more"
        )


def check_sampling(sampling: Sampling) -> None:
    """Refuse what no engine can do. Whether guidance can be enforced is known when the answer begins.

    :raises UsageError: says what is wrong.
    """
    if "" in sampling.stop:
        raise UsageError("a stop string is empty: it would end every answer before it begins")
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MOST_LOGPROBS:
        raise UsageError(f"logprobs is {sampling.logprobs}; it must be from 0 to {MOST_LOGPROBS}")
    if (guidance := sampling.guidance) is not None:
        if guidance.kind not in get_args(GuidanceKind):
            raise UsageError(f"guidance {guidance.kind!r} is unknown: use one of {', '.join(get_args(GuidanceKind))}")
        if not guidance.text.strip():
            raise UsageError(f"the {guidance.kind} is empty")
        if guidance.kind == "json_schema":
            check_schema(guidance.text)


def check_adapter(name: str | None, known: Collection[str]) -> None:
    """Refuse an adapter that is not among those of the bundle; None is always there.

    :raises UsageError: says which there are.
    """
    if name is not None and name not in known:
        there = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise UsageError(f"the bundle has no adapter {name!r}: {there}")
