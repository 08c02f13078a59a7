"""What is no request, and what would be left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UsageError
from edge.server.openai import sampling, turns_of
from edge.server.wire import ChatMessage, ChatRequest, CompletionRequest, EmbeddingRequest, decode, unsupported
from edge.server.wire_ollama import OllamaChat, OllamaGenerate
from edge.server.wire_responses import ResponsesRequest

KINDS = [ChatRequest, CompletionRequest, EmbeddingRequest, ResponsesRequest, OllamaChat, OllamaGenerate]
HI = [{"role": "user", "content": "Hi"}]


def chat(**more: Any) -> ChatRequest:
    asked: ChatRequest = decode(json.dumps({"model": "edge", "messages": HI, **more}).encode(), ChatRequest)
    return asked


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "\xff"}', b"[" * 200_000, b'{"a":' * 100_000, b"1e999"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_request_is_said_to_be_none(body: bytes, kind: Any) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        decode(body, kind)


@given(body=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_bytes_are_a_request_or_an_error(body: bytes, kind: Any) -> None:
    try:
        assert isinstance(decode(body, kind), kind)
    except UsageError as error:
        assert "cannot be read" in str(error)


@pytest.mark.parametrize(
    "more",
    [
        {"messages": []}, {"messages": [{"role": "wizard", "content": "Hi"}]}, {"temperature": 2.1}, {"top_p": -0.1},
        {"max_tokens": 0}, {"max_tokens": "5"}, {"max_tokens": 5.5}, {"stop": [""]}, {"stop": ["x"] * 9},
        {"top_logprobs": 21}, {"seed": 2**63}, {"nonsense": 1}, {"stream": "yes"}, {"tools": [{"type": "x"}]},
        {"rag": {"index": "other"}}, {"rag": {"nonsense": 1}}, {"response_format": {"type": "xml"}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_values_that_cannot_be(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        chat(**more)


@pytest.mark.parametrize(
    "more", [{"n": 2}, {"frequency_penalty": 0.5}, {"presence_penalty": -1}, {"logit_bias": {"5": 10}}], ids=json.dumps
)
def test_what_would_be_left_out_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(more))):
        unsupported(chat(**more))


@pytest.mark.parametrize("more", [{"n": 1}, {"frequency_penalty": 0}, {"logit_bias": {}}, {"n": None}], ids=json.dumps)
def test_what_changes_nothing_is_taken(more: dict[str, Any]) -> None:
    unsupported(chat(**more))


@pytest.mark.parametrize("more", [{"best_of": 2}, {"echo": True}, {"suffix": "x"}, {"n": 3}], ids=json.dumps)
def test_what_completions_would_leave_out(more: dict[str, Any]) -> None:
    asked = decode(json.dumps({"model": "edge", "prompt": "Hi", **more}).encode(), CompletionRequest)
    with pytest.raises(UsageError, match=next(iter(more))):
        unsupported(asked)


def test_sampling_says_only_what_was_asked() -> None:
    assert sampling(chat(), None) == {}
    given = chat(max_tokens=5, max_completion_tokens=7, temperature=0.0, seed=0, stop="x", logprobs=True)
    assert sampling(given, None) == {"max_tokens": 7, "temperature": 0.0, "seed": 0, "stop": ["x"], "logprobs": 0}
    with pytest.raises(UsageError, match="top_logprobs"):
        sampling(chat(top_logprobs=2), None)


def test_turns_of_a_conversation_about_the_documents() -> None:
    said = [
        ("system", "x"),
        ("user", "a?"),
        ("assistant", "a."),
        ("user", "lost?"),
        ("user", "b?"),
        ("assistant", "b."),
    ]
    messages = [ChatMessage(role, text) for role, text in said]  # type: ignore[arg-type]
    assert turns_of([*messages, ChatMessage("user", "c?")]) == ("c?", [("a?", "a."), ("b?", "b.")])
    for wrong in ([], messages, [ChatMessage("user", "  ")], [ChatMessage("system", "x")]):
        with pytest.raises(UsageError, match="last message"):
            turns_of(wrong)
