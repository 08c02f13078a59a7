"""Requests of OpenAI's Responses API, and how they read as a chat.

Nothing is stored here: what would need an earlier response, or one for later, is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from edge.errors import UsageError
from edge.server.wire import (
    Called,
    ChatMessage,
    ChatRequest,
    Count,
    Function,
    JsonSchema,
    Rag,
    ResponseFormat,
    Share,
    Temperature,
    Tool,
    ToolCall,
    TopLogprobs,
)

LOGPROBS = "message.output_text.logprobs"


class Part(Struct):
    """A piece of a message: input_text, or output_text where an earlier answer is sent again."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class Item(Struct):
    """A message, a call of a tool, or what came of one; `type` says which, and a message need not say so."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class TextForm(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | bool | UnsetType = UNSET
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, forbid_unknown_fields=True):
    format: TextForm | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class FunctionTool(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    type: Literal["function"] = "function"
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Reasoning(Struct):
    effort: str | None = None
    summary: str | None = None


class ResponseStreamOptions(Struct):
    include_obfuscation: bool | None = None


class ResponsesRequest(Struct, forbid_unknown_fields=True):
    model: str
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=1000)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=32)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    rag: Rag | None = None
    # refused where they ask for anything
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    store: bool | None = None
    prompt: dict[str, Any] | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # What changes no answer here is taken and not looked at.
    max_tool_calls: int | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


def as_chat(asked: ResponsesRequest) -> ChatRequest:
    """The same request as the chat API has it.

    :raises UsageError: it asks for what cannot be; names the parameter.
    """
    _check(asked)
    first = [ChatMessage("system", asked.instructions)] if asked.instructions else []
    items = [Item(role="user", content=asked.input)] if isinstance(asked.input, str) else asked.input
    logprobs = LOGPROBS in (asked.include or ())
    return ChatRequest(
        model=asked.model,
        messages=[*first, *(_message(item, place) for place, item in enumerate(items))],
        max_completion_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        logprobs=logprobs or None,
        top_logprobs=asked.top_logprobs if logprobs else None,
        response_format=_form(asked.text),
        tools=None if asked.tools is None else [_tool(tool) for tool in asked.tools],
        tool_choice=_choice(asked.tool_choice),
        rag=asked.rag,
    )


def _check(asked: ResponsesRequest) -> None:
    for name in ("previous_response_id", "conversation", "background", "prompt"):
        if getattr(asked, name):
            raise UsageError(f"{name}: nothing is stored here; send the whole conversation as input")
    if asked.store:
        raise UsageError("store: nothing is stored here; leave it out, or send false")
    if asked.truncation == "auto":
        raise UsageError("truncation: nothing is cut away unasked here; send fewer items, or truncation: disabled")
    if asked.reasoning is not None and asked.reasoning.effort not in (None, "none"):
        raise UsageError("reasoning: this model does not reason before it answers; leave it out")
    for name in asked.include or ():
        if name not in (LOGPROBS, "reasoning.encrypted_content"):  # of the second there is none
            raise UsageError(f"include: {name[:80]!r} is not there; {LOGPROBS} is")
    if asked.top_logprobs and LOGPROBS not in (asked.include or ()):
        raise UsageError(f"top_logprobs needs include: [{LOGPROBS}]")


def _message(item: Item, place: int) -> ChatMessage:
    if item.type == "function_call":
        if item.name is None or item.arguments is None:
            raise UsageError(f"input {place}: a function_call has name, arguments and call_id")
        call = ToolCall(item.call_id or "", Called(item.name, item.arguments))
        return ChatMessage("assistant", tool_calls=[call])
    if item.type == "function_call_output":
        if item.output is None:
            raise UsageError(f"input {place}: a function_call_output has call_id and output")
        return ChatMessage("tool", _text(item.output), tool_call_id=item.call_id)
    if item.role is None or item.content is None:
        raise UsageError(f"input {place}: a message has role and content")
    return ChatMessage(item.role, _text(item.content))


def _text(content: str | list[Part]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _form(config: TextConfig | None) -> ResponseFormat | None:
    form = config.format if config is not None else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return ResponseFormat("json_object")
    if form.schema is msgspec.UNSET:
        raise UsageError("text.format: json_schema needs a schema")
    return ResponseFormat("json_schema", JsonSchema(form.name or "answer", form.schema))


def _tool(tool: FunctionTool) -> Tool:
    return Tool(Function(tool.name, tool.description or "", tool.parameters, tool.strict))


def _choice(chosen: Any) -> Any:
    """The chat API has the name one level deeper."""
    if not isinstance(chosen, dict):
        return chosen
    if chosen.get("type") != "function":
        raise UsageError("tool_choice: send none, auto, required, or {type: function, name: ...}")
    return {"type": "function", "function": {"name": chosen.get("name")}}
