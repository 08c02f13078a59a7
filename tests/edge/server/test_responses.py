"""The Responses API: what a request means, and the order of the events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.errors import EngineError, UsageError
from edge.server import responses
from edge.server.wire import decode
from edge.server.wire_responses import Item, Part, ResponsesRequest, TextConfig, TextForm, as_chat

RESULT = {
    "finish_reason": "stop", "prompt_tokens": 30, "cached_tokens": 4, "completion_tokens": 2, "ttft_sec": 0.5,
    "decode_tok_per_sec": 8.0,
}  # fmt: skip


class Scripted:
    """A stream that says what it is told to."""

    queued_sec = 0.0

    def __init__(self, *messages: dict[str, Any] | Exception) -> None:
        self._messages = messages

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for message in self._messages:
            if isinstance(message, Exception):
                raise message
            yield message


def told(body: bytes, *messages: dict[str, Any] | Exception) -> list[dict[str, Any]]:
    asked = decode(body, ResponsesRequest)
    reply = responses._Reply(asked, as_chat(asked), None)

    async def read() -> list[dict[str, Any]]:
        stream: Any = Scripted(*messages)
        return [event async for event in responses._numbered(responses._told(stream, reply))]

    return asyncio.run(read())


def test_items_become_turns() -> None:
    asked = ResponsesRequest(
        "edge",
        [
            Item(role="user", content=[Part("input_text", "a"), Part("input_text", "b")]),
            Item("function_call", call_id="c", name="f", arguments="{}"),
            Item("function_call_output", call_id="c", output="7"),
        ],
        instructions="Be brief.",
    )
    turns = as_chat(asked).messages
    assert [(turn.role, turn.text) for turn in turns] == [
        ("system", "Be brief."), ("user", "a\nb"), ("assistant", ""), ("tool", "7"),
    ]  # fmt: skip
    assert turns[2].tool_calls is not None
    assert turns[2].tool_calls[0].function.name == "f"


@pytest.mark.parametrize(
    "item", [Item(), Item(role="user"), Item("function_call", name="f"), Item("function_call_output", call_id="c")]
)
def test_items_that_miss_something_are_named(item: Item) -> None:
    with pytest.raises(UsageError, match="input 0"):
        as_chat(ResponsesRequest("edge", [item]))


def test_formats_and_tool_choices_lie_deeper_in_a_chat() -> None:
    form = TextConfig(TextForm("json_schema", "x", {"type": "object"}))
    wanted = as_chat(ResponsesRequest("edge", "Hi", text=form, tool_choice={"type": "function", "name": "f"}))
    assert wanted.response_format is not None
    assert wanted.response_format.json_schema is not None
    assert wanted.response_format.json_schema.schema == {"type": "object"}
    assert wanted.tool_choice == {"type": "function", "function": {"name": "f"}}
    with pytest.raises(UsageError, match="schema"):
        as_chat(ResponsesRequest("edge", "Hi", text=TextConfig(TextForm("json_schema"))))


def test_events_of_a_text() -> None:
    found = told(b'{"model":"edge","input":"Hi"}', {"token": "Hel"}, {"token": ""}, {"token": "lo"}, {"result": RESULT})
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    last = found[-1]["response"]
    assert last["output"][0]["content"][0]["text"] == "Hello"
    assert last["usage"] == {
        "input_tokens": 30, "output_tokens": 2, "total_tokens": 32,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    ids = {event["item_id"] for event in found if "item_id" in event}
    assert ids == {last["output"][0]["id"]}


def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    found = told(b'{"model":"edge","input":"Hi"}', {"token": "a"}, {"result": RESULT | {"finish_reason": "length"}})
    last = found[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_events_of_a_call() -> None:
    body = b'{"model":"edge","input":"Hi","tools":[{"type":"function","name":"f"}]}'
    found = told(body, {"token": '{"name": "f", '}, {"token": '"arguments": {}}'}, {"result": RESULT})
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    assert found[-1]["response"]["output"][0]["arguments"] == "{}"
    assert found[2]["item"]["arguments"] == ""


def test_an_error_is_the_last_event() -> None:
    found = told(b'{"model":"edge","input":"Hi"}', {"token": "a"}, EngineError("it fell over"))
    assert found[-1]["type"] == "error"
    assert found[-1]["message"] == found[-1]["error"]["message"] == "it fell over"
    assert found[-1]["sequence_number"] == len(found) - 1
