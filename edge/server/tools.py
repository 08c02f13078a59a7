"""Tools and formats through guided decoding: what may be said is a grammar, so the reply always parses. (pure)

A small model calls a tool no better than it understands the question; but the call that it makes fits the schema.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec

from edge.errors import UsageError
from edge.server.wire import ChatMessage, ChatRequest, Tool

_OPEN = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties", "if")
"""Keywords by which a schema allows properties that its `properties` does not name."""
_ROLES = {"developer": "system", "tool": "user"}


def is_offered(asked: ChatRequest) -> bool:
    return bool(asked.tools) and asked.tool_choice != "none"


def offered(asked: ChatRequest) -> tuple[list[dict[str, str]], dict[str, str] | None]:
    """The turns for the model, and what its reply is held to.

    :raises UsageError: formats and tools at once, or a tool choice that none of the tools fits.
    """
    if not asked.tools and asked.tool_choice not in (None, "none", "auto"):
        raise UsageError("tool_choice needs tools")
    messages = [_turn(message) for message in asked.messages]
    form = asked.response_format
    schema = None
    if form is not None and form.type != "text":
        if is_offered(asked):
            raise UsageError("response_format and tools cannot be used together: send one of them")
        schema = _format_schema(asked)
    elif is_offered(asked):
        wanted = _wanted(asked)
        messages.insert(0, {"role": "system", "content": _instruction(wanted)})
        schema = _calls_schema(wanted, free=asked.tool_choice in (None, "auto"))
    if schema is None:
        return messages, None
    return messages, {"kind": "json_schema", "text": json.dumps(schema)}


def choice(text: str, asked: ChatRequest, finish: str) -> dict[str, Any]:
    """The message and finish reason that a generated text stands for."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if not is_offered(asked):
        return {"message": message, "finish_reason": finish}
    try:
        said = json.loads(text)
    except ValueError:  # max_tokens cut it off
        return {"message": message, "finish_reason": finish}
    if "answer" in said:
        return {"message": message | {"content": said["answer"]}, "finish_reason": finish}
    called = {"name": said["name"], "arguments": json.dumps(said["arguments"])}
    call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": called}
    return {"message": message | {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}


def delta(message: dict[str, Any]) -> dict[str, Any]:
    """The same message as one piece of a stream."""
    if "tool_calls" not in message:
        return {"content": message["content"]}
    return {"tool_calls": [{"index": place} | call for place, call in enumerate(message["tool_calls"])]}


def _turn(message: ChatMessage) -> dict[str, str]:
    """A turn as chat templates without tools know it."""
    content = message.text
    if message.tool_calls:
        calls = [{"name": call.function.name, "arguments": call.function.arguments} for call in message.tool_calls]
        content = "\n".join([*([content] if content else []), *map(json.dumps, calls)])
    elif message.role == "tool":
        content = f"Result of the tool: {content}"
    return {"role": _ROLES.get(message.role, message.role), "content": content}


def _format_schema(asked: ChatRequest) -> Any:
    form = asked.response_format
    assert form is not None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None or form.json_schema.schema is msgspec.UNSET:
        raise UsageError("response_format: json_schema needs json_schema.schema")
    return form.json_schema.schema


def _wanted(asked: ChatRequest) -> list[Tool]:
    tools, chosen = asked.tools or [], asked.tool_choice
    if not isinstance(chosen, dict):
        return tools
    function = chosen.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    found = [tool for tool in tools if tool.function.name == name]
    if not found:
        raise UsageError(f"tool_choice names {name!r}, which is not among the tools")
    return found


def _instruction(tools: list[Tool]) -> str:
    listed = [
        json.dumps({"name": one.name, "description": one.description, "parameters": one.parameters or {}})
        for one in (tool.function for tool in tools)
    ]
    return "You may call one of these tools:\n" + "\n".join(listed)


def _calls_schema(tools: list[Tool], *, free: bool) -> dict[str, Any]:
    """A call of one of the tools; where the model is free to, an answer instead."""
    shapes: list[dict[str, Any]] = [
        _closed({"name": {"const": tool.function.name}, "arguments": _arguments(tool.function.parameters)})
        for tool in tools
    ]
    if free:
        shapes.insert(0, _closed({"answer": {"type": "string"}}))
    return shapes[0] if len(shapes) == 1 else {"anyOf": shapes}


def _arguments(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """What a call's arguments must match. Where a schema does not say, there are none but those that it names."""
    if not parameters:
        return _closed({})
    if any(key in parameters for key in _OPEN):
        return parameters
    return {"additionalProperties": False} | parameters


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip
