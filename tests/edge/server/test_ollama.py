"""Ollama's API: what a request means, and how a reply is put."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.errors import UsageError
from edge.server import ollama
from edge.server.wire import Rag, decode
from edge.server.wire_ollama import OllamaChat, OllamaGenerate, OllamaMessage, as_chat, keep_alive_sec, turn

CONTEXT = 2048
RESULT = {
    "finish_reason": "stop", "prompt_tokens": 30, "cached_tokens": 0, "completion_tokens": 5, "ttft_sec": 0.5,
    "decode_tok_per_sec": 8.0,
}  # fmt: skip


class Scripted:
    """A stream that says what it is told to."""

    queued_sec = 0.25

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = messages

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for message in self._messages:
            yield message


def asked(**more: Any) -> OllamaGenerate:
    return OllamaGenerate(**{"model": "edge", "prompt": "Hi", **more})


def pieces(wanted: Any, rag: Rag | None, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        stream: Any = Scripted(*messages)
        return [piece async for piece in ollama._pieces(stream, wanted, rag, lambda said: {"message": said}, 0.0)]

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), (0, 0), ("0", 0), (90, 90), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), (-1, float("inf")),
     ("-1m", float("inf"))],
)  # fmt: skip
def test_durations(said: Any, seconds: float | None) -> None:
    assert keep_alive_sec(said) == seconds


@pytest.mark.parametrize("said", ["", "soon", "5 m", "5m!", "m5", "nan", "1e3", "५m"])
def test_no_durations(said: str) -> None:
    with pytest.raises(UsageError, match="keep_alive"):
        keep_alive_sec(said)


def test_options_become_sampling() -> None:
    options = b'{"temperature":0.5,"top_p":0.9,"seed":7,"num_predict":5,"stop":["x"],"num_thread":4}'
    body = b'{"model":"edge","options":' + options + b"}"
    wanted = as_chat(decode(body, OllamaGenerate), [], CONTEXT)
    assert (wanted.temperature, wanted.top_p, wanted.seed, wanted.max_tokens, wanted.stop) == (0.5, 0.9, 7, 5, ["x"])


@pytest.mark.parametrize("name", ["nonsense", "num_ctxx", "Temperature"])
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        decode(b'{"model":"edge","options":{"%s":1}}' % name.encode(), OllamaGenerate)


@pytest.mark.parametrize("options", [{"num_predict": -1}, {"num_predict": -2}, {"num_ctx": CONTEXT}, {"top_k": 40},
                                     {"repeat_penalty": 1.0, "mirostat": 0}])  # fmt: skip
def test_options_that_change_nothing_are_taken(options: dict[str, Any]) -> None:
    import msgspec

    from edge.server.wire_ollama import Options

    assert as_chat(asked(options=msgspec.convert(options, Options)), [], CONTEXT).max_tokens is None


@pytest.mark.parametrize(
    ("options", "name"),
    [({"num_ctx": CONTEXT + 1}, "num_ctx"), ({"num_predict": 0}, "num_predict"), ({"min_p": 0.1}, "min_p"),
     ({"top_k": 40, "temperature": 1.0}, "top_k"), ({"presence_penalty": 0.5}, "presence_penalty")],
)  # fmt: skip
def test_options_that_would_be_left_out_are_refused(options: dict[str, Any], name: str) -> None:
    import msgspec

    from edge.server.wire_ollama import Options

    with pytest.raises(UsageError, match=name):
        as_chat(asked(options=msgspec.convert(options, Options)), [], CONTEXT)


def test_formats() -> None:
    assert as_chat(asked(format=""), [], CONTEXT).response_format is None
    loose = as_chat(asked(format="json"), [], CONTEXT).response_format
    assert loose is not None
    assert loose.type == "json_object"
    strict = as_chat(asked(format={"type": "object"}), [], CONTEXT).response_format
    assert strict is not None
    assert strict.json_schema is not None
    assert strict.json_schema.schema == {"type": "object"}
    with pytest.raises(UsageError, match="yaml"):
        as_chat(asked(format="yaml"), [], CONTEXT)


def test_turns() -> None:
    called = turn(
        decode(b'{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]}', OllamaMessage)
    )
    assert called.tool_calls is not None
    assert (called.tool_calls[0].function.name, called.tool_calls[0].function.arguments) == ("f", '{"a": 1}')
    with pytest.raises(UsageError, match="images"):
        turn(OllamaMessage("user", "look", images=["aGVsbG8="]))


def test_a_stream_ends_with_counts_and_nanoseconds() -> None:
    wanted = as_chat(OllamaChat(model="edge"), [], CONTEXT)
    found = pieces(
        wanted, None, {"token": "Hel", "token_id": 1}, {"token": "", "token_id": 2}, {"token": "lo"}, {"result": RESULT}
    )
    assert [piece["message"]["content"] for piece in found] == ["Hel", "lo", ""]
    assert [piece["done"] for piece in found] == [False, False, True]
    last = found[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 30, 5)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (500_000_000, 500_000_000)
    assert last["total_duration"] >= last["load_duration"] + 1_000_000_000


def test_answers_from_the_documents_come_whole_with_citations() -> None:
    citation = dict.fromkeys(("page", "start", "end", "score"), 1) | {
        "marker": 1, "document": "/a.md", "name": "a.md", "title": "", "text": "Yes.", "sentence": "Yes.",
    }  # fmt: skip
    said = {"marked": "Yes. [1]", "marks": [[5, 8, 0]], "citations": [citation]}
    result = RESULT | said | {"finish_reason": "stop", "retrieve_sec": 0.1}
    found = pieces(as_chat(OllamaChat(model="edge+rag"), [], CONTEXT), Rag(), {"token": "draft"}, {"result": result})
    assert [piece["message"]["content"] for piece in found] == ["Yes. [1]", ""]
    assert found[-1]["citations"][0]["url_citation"] == {
        "title": "a.md", "url": "/#document=/a.md", "start_index": 5, "end_index": 8,
    }  # fmt: skip


def test_calls_have_objects_for_arguments() -> None:
    body = b'{"model":"edge","tools":[{"type":"function","function":{"name":"f"}}]}'
    wanted = as_chat(decode(body, OllamaChat), [], CONTEXT)
    said = {"token": '{"name": "f", "arguments": {"a": 1}}'}
    found = pieces(wanted, None, said, {"result": RESULT})
    assert found[0]["message"]["tool_calls"] == [{"function": {"name": "f", "arguments": {"a": 1}}}]
    whole = asyncio.run(ollama._whole(_each(found)))
    assert whole["message"]["tool_calls"] == found[0]["message"]["tool_calls"]
    assert whole["done"]


async def _each(items: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for item in items:
        yield item
