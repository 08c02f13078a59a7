"""Tools and formats: what the model's reply is held to, and what it stands for."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from edge.errors import UsageError
from edge.server import tools
from edge.server.wire import ChatRequest

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def asked(**more: Any) -> ChatRequest:
    return msgspec.convert({"model": "edge", "messages": [{"role": "user", "content": "Hi"}], **more}, ChatRequest)


def schema_of(request: ChatRequest) -> Any:
    _, guidance = tools.offered(request)
    assert guidance is not None
    assert guidance["kind"] == "json_schema"
    return json.loads(guidance["text"])


def fits(value: Any, schema: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def test_without_tools_or_format_nothing_is_held_to() -> None:
    assert tools.offered(asked())[1] is None
    assert tools.offered(asked(response_format={"type": "text"}))[1] is None
    assert tools.offered(asked(tools=[tool("f")], tool_choice="none"))[1] is None
    assert tools.offered(asked(tool_choice="auto"))[1] is None


def test_a_call_or_an_answer() -> None:
    schema = schema_of(asked(tools=[tool("weather", CITY), tool("now")]))
    for good in (
        {"answer": "Hello."},
        {"name": "weather", "arguments": {"city": "Oslo"}},
        {"name": "now", "arguments": {}},
    ):
        assert fits(good, schema), good
    for bad in (
        {"name": "weather", "arguments": {}},
        {"name": "weather", "arguments": {"city": "Oslo", "unit": "C"}},  # the schema names no unit
        {"name": "now", "arguments": {"city": "Oslo"}},
        {"name": "other", "arguments": {}},
        {"answer": 7},
    ):
        assert not fits(bad, schema), bad


def test_where_a_call_is_wanted_there_is_no_answer() -> None:
    required = schema_of(asked(tools=[tool("weather", CITY), tool("now")], tool_choice="required"))
    assert not fits({"answer": "Hello."}, required)
    one = {"type": "function", "function": {"name": "now"}}
    named = schema_of(asked(tools=[tool("weather", CITY), tool("now")], tool_choice=one))
    assert fits({"name": "now", "arguments": {}}, named)
    assert not fits({"name": "weather", "arguments": {"city": "Oslo"}}, named)


@pytest.mark.parametrize(
    "parameters",
    [
        CITY | {"additionalProperties": True},
        {"anyOf": [CITY, {"type": "object"}]},
        CITY | {"patternProperties": {"^x": {}}},
    ],
)
def test_a_schema_that_is_open_stays_open(parameters: dict[str, Any]) -> None:
    schema = schema_of(asked(tools=[tool("weather", parameters)], tool_choice="required"))
    assert fits({"name": "weather", "arguments": {"city": "Oslo", "x": 1}}, schema)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"tools": [tool("f")], "response_format": {"type": "json_object"}}, "together"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "'g'"),
        ({"tools": [tool("f")], "tool_choice": {}}, "None"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "needs tools"),
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        tools.offered(asked(**more))


def test_formats() -> None:
    given = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    assert schema_of(asked(response_format=given)) == CITY
    assert schema_of(asked(response_format={"type": "json_object"})) == {"type": "object"}


def test_what_a_reply_stands_for() -> None:
    request = asked(tools=[tool("weather", CITY)])
    called = tools.choice('{"name": "weather", "arguments": {"city": "Oslo"}}', request, "stop")
    assert called["finish_reason"] == "tool_calls"
    (call,) = called["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Oslo"})
    assert tools.delta(called["message"])["tool_calls"][0]["index"] == 0
    answered = tools.choice('{"answer": "Hello."}', request, "stop")
    assert (answered["message"]["content"], answered["finish_reason"]) == ("Hello.", "stop")
    assert tools.delta(answered["message"]) == {"content": "Hello."}
    cut = tools.choice('{"name": "wea', request, "length")
    assert (cut["message"]["content"], cut["finish_reason"]) == ('{"name": "wea', "length")
    plain = tools.choice('{"answer": "Hello."}', asked(), "stop")
    assert plain["message"]["content"] == '{"answer": "Hello."}'  # no tools were offered: it is what it is


def test_earlier_calls_and_results_are_turns() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "Rain."},
    ]
    messages, _ = tools.offered(asked(messages=turns))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"] == "a\nb"
    assert "weather" in messages[2]["content"]
    assert messages[3]["content"] == "Result of the tool: Rain."
