"""OpenAI's own client against a real daemon."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTION = "How long does a firmware update take?"
ANSWER = "six minutes"
HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


def test_openai_lists_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert [f"{name}+rag" for name in names[::2]] == names[1::2]
    assert client.models.retrieve(names[0]).id == names[0]


def test_openai_chats_the_same_in_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="edge", messages=HELLO, max_tokens=12)
    assert whole.choices[0].finish_reason in ("length", "stop")
    text, usage = "", []
    for chunk in client.chat.completions.create(
        model="edge", messages=HELLO, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage += [chunk.usage] if chunk.usage else []
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert [one.completion_tokens for one in usage] == [whole.usage.completion_tokens]


def test_openai_gets_citations(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="edge+rag", messages=[{"role": "user", "content": QUESTION}])
    said = message.choices[0].message
    assert ANSWER in (said.content or "")
    assert said.annotations is not None
    cited = said.annotations[0].url_citation
    assert (said.content or "")[cited.start_index : cited.end_index] == "[1]"
    assert cited.title == "Fjordlink GW-200 user manual"


def test_openai_stops_where_it_is_told(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(model="edge", messages=HELLO, max_tokens=12).choices[0].message.content or ""
    word = free.split()[2]
    cut = client.chat.completions.create(model="edge", messages=HELLO, max_tokens=12, stop=[word]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (free.partition(word)[0], "stop")


def test_openai_completes(client: openai.OpenAI) -> None:
    done = client.completions.create(model="edge", prompt="The capital of France is", max_tokens=3, logprobs=2)
    assert "Paris" in done.choices[0].text
    assert done.choices[0].logprobs is not None
    assert len(done.choices[0].logprobs.tokens or ()) == 3


def test_openai_embeds_as_floats_and_as_base64(client: openai.OpenAI) -> None:
    texts = ["a lighthouse", "the keeper's dog"]
    plain = client.embeddings.create(model="edge", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="edge", input=texts)  # this client asks for base64 by itself
    first, second = (np.array([row.embedding for row in reply.data], np.float32) for reply in (plain, packed))
    assert first.shape[0] == 2
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="reads 256: shorten it"):
        client.embeddings.create(model="edge", input="word " * 400)


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
def test_openai_is_told_that_token_ids_are_another_tokenizer_s(client: openai.OpenAI, ids: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="send the text") as told:
        client.embeddings.create(model="edge", input=ids)
    assert told.value.type == "invalid_request_error"


def test_openai_gets_json_that_fits(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    asked: list[Any] = [{"role": "user", "content": "Make up a person as JSON."}]
    said = client.chat.completions.create(model="edge", messages=asked, response_format=form, max_tokens=80)
    assert set(json.loads(said.choices[0].message.content or "")) == {"name", "age"}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "have no end"),
        ({"type": "object", "properties": {f"p{one}": {"type": "string"} for one in range(3000)}}, "Fewer optional"),
    ],
)
def test_openai_is_told_of_schemas_that_cannot_be_enforced(client: openai.OpenAI, schema: Any, text: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=text):
        client.chat.completions.create(model="edge", messages=HELLO, response_format=form, max_tokens=8)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_calls_tools(client: openai.OpenAI, stream: bool) -> None:
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    wanted: Any = {"model": "edge", "messages": asked, "tools": WEATHER, "tool_choice": "required", "max_tokens": 60}
    if stream:
        with client.chat.completions.stream(**wanted) as events:
            done: Any = events.get_final_completion()
    else:
        done = client.chat.completions.create(**wanted)
    choice = done.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    told: list[Any] = [
        *asked,
        {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": {
            "name": "weather", "arguments": call.function.arguments}}]},
        {"role": "tool", "tool_call_id": call.id, "content": "Rain, 7 degrees."},
    ]  # fmt: skip
    assert client.chat.completions.create(model="edge", messages=told, max_tokens=8).choices[0].message.content


def test_openai_gets_logprobs(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="edge", messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=3)
    rows = done.choices[0].logprobs
    assert rows is not None
    assert "".join(row.token for row in rows.content or ()) == done.choices[0].message.content
    for row in rows.content or ():
        assert row.logprob <= 0
        assert len(row.top_logprobs) == 3
        assert row.top_logprobs[0].logprob == max(top.logprob for top in row.top_logprobs)


def test_openai_raises_what_its_callers_expect(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="prompt is empty"):
        client.completions.create(model="edge", prompt="")
    with pytest.raises(openai.BadRequestError, match="tool_choice needs tools"):
        client.chat.completions.create(model="edge", messages=HELLO, tool_choice="required")
    with pytest.raises(openai.BadRequestError, match="n: one answer"):
        client.chat.completions.create(model="edge", messages=HELLO, n=2)
    with pytest.raises(openai.BadRequestError, match="shorten") as told:
        client.chat.completions.create(model="edge", messages=[{"role": "user", "content": "word " * 4000}])
    assert told.value.code == "context_length_exceeded"
    image: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="edge", messages=[{"role": "user", "content": image}])


def test_openai_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="edge", input="Say hello.", instructions="Be brief.", max_output_tokens=10)
    assert whole.usage is not None
    assert 0 < whole.usage.output_tokens <= 10
    assert whole.status == ("incomplete" if whole.usage.output_tokens == 10 else "completed")
    asked: Any = {"model": "edge", "input": "Say hello.", "instructions": "Be brief.", "max_output_tokens": 10}
    seen = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert [event.type for event in seen if event.type != "response.output_text.delta"] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        f"response.{whole.status}",
    ]  # fmt: skip


def test_openai_responses_from_the_documents(client: openai.OpenAI) -> None:
    with client.responses.stream(model="edge+rag", input=[{"role": "user", "content": QUESTION}]) as stream:
        events = [event.type for event in stream]
        done = stream.get_final_response()
    assert "response.output_text.annotation.added" in events
    assert ANSWER in done.output_text
    part: Any = done.output[0]
    cited = part.content[0].annotations[0]
    assert done.output_text[cited.start_index : cited.end_index] == "[1]"


def test_openai_responses_with_schema_and_tools(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}}
    said = client.responses.create(model="edge", input="Make up a person as JSON.", text=form, max_output_tokens=80)
    assert set(json.loads(said.output_text)) == {"name", "age"}
    tools: Any = [{"type": "function", "name": "weather", "parameters": CITY, "strict": True}]
    asked: Any = {"model": "edge", "input": "Weather in Oslo?", "tools": tools, "tool_choice": "required"}
    with client.responses.stream(**asked, max_output_tokens=60) as stream:
        events = [event.type for event in stream]
        call: Any = stream.get_final_response().output[0]
    assert "response.function_call_arguments.done" in events
    assert (call.type, call.name, set(json.loads(call.arguments))) == ("function_call", "weather", {"city"})
    turns: Any = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."},
    ]
    assert client.responses.create(model="edge", input=turns, max_output_tokens=8).output_text


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"}, {"background": True}, {"store": True}, {"truncation": "auto"},
        {"tools": [{"type": "web_search"}]}, {"include": ["file_search_call.results"]}, {"conversation": "conv_1"},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
        {"reasoning": {"effort": "high"}},
    ],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_openai_responses_refuses_what_it_would_leave_out(client: openai.OpenAI, more: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(more))):
        client.responses.create(**{"model": "edge", "input": "Hi", **more})


def test_a_bundle_without_a_reranker_reranks_nothing(base: str) -> None:
    asked = {"query": "Which button?", "documents": ["A button.", "A lamp."]}
    refused = httpx.post(f"{base}/v1/rerank", json=asked)
    assert refused.status_code == 501
    assert "holds no reranker: use /v1/search" in refused.json()["error"]["message"]
