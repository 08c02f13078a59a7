"""Requests of Ollama's API, as its clients send them.

An option that would change the answer and that the engine does not have is refused: see `as_chat`.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from edge.errors import UsageError
from edge.server.wire import (
    Called,
    ChatMessage,
    ChatRequest,
    JsonSchema,
    Rag,
    ResponseFormat,
    Seed,
    Share,
    Temperature,
    Tool,
    ToolCall,
    TopLogprobs,
)

Predict = Annotated[int, Meta(ge=-2, le=1_000_000)]
_SECONDS = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_PATIENCE = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_OFF: dict[str, float] = {
    "min_p": 0, "tfs_z": 1, "typical_p": 1, "repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
    "mirostat": 0,
}  # fmt: skip
"""Options that the engine does not have, with the value at which they change nothing."""


class Options(Struct, forbid_unknown_fields=True):
    """What Ollama calls options. Null is as if it were left out."""

    temperature: Temperature | None = None  # greedy where it is left out
    top_p: Share | None = None
    seed: Seed | None = None
    num_predict: Predict | None = None  # tokens; -1 and -2 as many as the context holds
    num_ctx: Annotated[int, Meta(ge=1)] | None = None  # checked against the context there is
    stop: str | Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=8)] | None = None
    # taken where they change nothing
    top_k: int | None = None
    min_p: float | None = None
    tfs_z: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | None = None
    # about how a model is loaded or penalised elsewhere: no answer here depends on them
    repeat_last_n: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    penalize_newline: bool | None = None
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    vocab_only: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    embedding_only: bool | None = None


class OllamaCalled(Struct):
    name: str
    arguments: dict[str, Any] = {}


class OllamaCall(Struct):
    function: OllamaCalled


class OllamaMessage(Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    thinking: str | None = None


class _Asked(Struct, forbid_unknown_fields=True, kw_only=True):
    model: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None  # true where it is left out
    format: str | dict[str, Any] | None = None  # "json", or a schema
    options: Options | None = None
    keep_alive: str | float | None = None  # seconds, or with a unit; negative: for good
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    rag: Rag | None = None  # this daemon's own, as for /v1/chat/completions


class OllamaChat(_Asked, kw_only=True):
    messages: Annotated[list[OllamaMessage], Meta(max_length=1000)] = []
    tools: Annotated[list[Tool], Meta(max_length=32)] | None = None


class OllamaGenerate(_Asked, kw_only=True):
    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[str] | None = None


class OllamaEmbed(Struct, forbid_unknown_fields=True):
    model: Annotated[str, Meta(min_length=1)]
    input: str | Annotated[list[str], Meta(min_length=1, max_length=256)]
    truncate: bool | None = None  # a text that is too long is cut, but for false
    dimensions: int | None = None
    options: Options | None = None
    keep_alive: str | float | None = None


class OllamaEmbedding(Struct, forbid_unknown_fields=True):
    """The older endpoint: one text."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: str
    options: Options | None = None
    keep_alive: str | float | None = None


class OllamaShow(Struct, forbid_unknown_fields=True):
    model: str | None = None
    name: str | None = None  # as older clients say it
    verbose: bool | None = None


def as_chat(asked: OllamaChat | OllamaGenerate, messages: list[ChatMessage], context_tokens: int) -> ChatRequest:
    """The same request as OpenAI's API would have it.

    :raises UsageError: it asks for what cannot be; names the parameter.
    """
    options = asked.options or Options()
    _check(asked, options, context_tokens)
    wanted = options.num_predict
    return ChatRequest(
        model=asked.model,
        messages=messages,
        max_tokens=wanted if wanted is not None and wanted > 0 else None,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        stop=options.stop,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        response_format=_form(asked.format),
        tools=asked.tools if isinstance(asked, OllamaChat) else None,
        rag=asked.rag,
    )


def turn(message: OllamaMessage) -> ChatMessage:
    """:raises UsageError: it holds an image."""
    if message.images:
        raise UsageError("images: this model reads text alone; leave them out")
    calls = [
        ToolCall("", Called(call.function.name, json.dumps(call.function.arguments)))
        for call in message.tool_calls or ()
    ]
    return ChatMessage(message.role, message.content, tool_calls=calls or None)


def keep_alive_sec(asked: str | float | None) -> float | None:
    """How long the model is to stay, in seconds; infinity for good, None where nothing was said.

    :raises UsageError: it is no duration.
    """
    if asked is None:
        return None
    seconds = asked if isinstance(asked, float | int) else _duration(asked)
    return float("inf") if seconds < 0 else float(seconds)


def _duration(text: str) -> float:
    if _SECONDS.fullmatch(text):
        return float(text)
    pieces = _PATIENCE.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise UsageError(f"keep_alive: {text[:40]!r} is no duration: send seconds, or such as '5m'")
    return sum(float(number) * _UNITS[unit] for number, unit in pieces)


def _check(asked: OllamaChat | OllamaGenerate, options: Options, context_tokens: int) -> None:
    if asked.think not in (None, False):
        raise UsageError("think: this model does not think before it answers; leave it out, or send false")
    for name, off in _OFF.items():
        if getattr(options, name) not in (None, off):
            raise UsageError(f"options.{name} is not supported: leave it out, or send {off:g}")
    if options.top_k not in (None, 0, -1) and options.temperature:
        raise UsageError("options.top_k is not supported: leave it out, or send 0; top_p is")
    if options.num_predict == 0:
        raise UsageError("options.num_predict is 0: send the most tokens that you want, or -1")
    if options.num_ctx is not None and options.num_ctx > context_tokens:
        raise UsageError(
            f"options.num_ctx is {options.num_ctx} and the context here is {context_tokens} tokens: leave it out, or "
            f"send {context_tokens} or less"
        )
    if isinstance(asked, OllamaGenerate):
        if asked.images:
            raise UsageError("images: this model reads text alone; leave them out")
        for name in ("suffix", "template", "context"):
            if getattr(asked, name):
                raise UsageError(f"{name} is not supported: leave it out (/api/chat takes earlier turns)")


def _form(asked: str | dict[str, Any] | None) -> ResponseFormat | None:
    if asked is None or asked == "":
        return None
    if isinstance(asked, dict):
        return ResponseFormat("json_schema", JsonSchema("format", asked))
    if asked != "json":
        raise UsageError(f'format {asked[:40]!r} is unknown: send "json" or a JSON schema')
    return ResponseFormat("json_object")
