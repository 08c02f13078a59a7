"""The OpenAPI document against a real daemon: it is true, and no request that fits it, or does not, breaks anything.

EDGE_API_CASES is how many requests are made up, half of them fitting, and EDGE_API_SEED what they are drawn from.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import schemathesis
from _daemon import Daemon, Reply
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from edge.server.openapi import OPERATIONS, Operation, document

pytestmark = [pytest.mark.model, pytest.mark.process]

CASES = int(os.environ.get("EDGE_API_CASES", "300"))
EACH = max(2, CASES // (2 * len(OPERATIONS)))
SEED = int(os.environ.get("EDGE_API_SEED", "5"))
SCHEMA = schemathesis.openapi.from_dict(document())
CONFORMS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
LENGTHS = {
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
}
TIMEOUT_SEC = 60
QUESTION = [{"role": "user", "content": "Which port does the web interface use?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
FLAT_TOOL = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
ASKED = {"model": "edge", "messages": QUESTION}
BRIEF = {"stream": False, "options": {"num_predict": 60}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "edge+rag", "messages": QUESTION}),
    ("/v1/chat/completions", {**ASKED, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {**ASKED, "tools": [TOOL], "tool_choice": "required"}),
    ("/v1/chat/completions", {**ASKED, "max_tokens": 2, "response_format": {"type": "text"}}),
    ("/v1/chat/completions", {**ASKED, "max_tokens": 2, "stream": True}),
    ("/v1/completions", {"model": "edge", "prompt": "The capital of France is", "max_tokens": 2, "logprobs": 2}),
    ("/v1/responses", {"model": "edge+rag", "input": QUESTION[0]["content"]}),
    ("/v1/responses", {"model": "edge", "input": "Hi", "tools": [FLAT_TOOL], "tool_choice": "required"}),
    ("/v1/responses", {"model": "edge", "input": "Hi", "max_output_tokens": 2, "stream": True}),
    ("/v1/embeddings", {"model": "edge", "input": ["a", "b"]}),
    ("/v1/embeddings", {"model": "edge", "input": "a", "encoding_format": "base64"}),
    ("/v1/search", {"query": "port", "top_k": 3}),
    ("/api/chat", {"model": "edge+rag", "messages": QUESTION, "stream": False}),
    ("/api/chat", {**ASKED, **BRIEF, "tools": [TOOL]}),
    ("/api/chat", {**ASKED, "options": {"num_predict": 2}}),
    ("/api/generate", {"model": "edge", "prompt": "Hi", **BRIEF, "logprobs": True}),
    ("/api/generate", {"model": "edge"}),
    ("/api/embed", {"model": "edge", "input": ["a", "b"]}),
    ("/api/embeddings", {"model": "edge", "prompt": "a"}),
    ("/api/show", {"model": "edge"}),
]  # fmt: skip


@pytest.mark.parametrize("path", sorted({one.path for one in OPERATIONS}))
def test_other_methods_are_told_which_there_are(shared_daemon: Daemon, path: str) -> None:
    with pytest.raises(Reply) as told:
        shared_daemon.call("PATCH", path.format(name="edge.md"))
    known = {one.method.upper() for one in OPERATIONS if one.path == path}
    assert told.value.status == 405
    assert set(told.value.headers["allow"].split(", ")) - {"HEAD"} == known


MADE_UP = [
    (operation, mode)
    for operation in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode.is_positive or operation.request or operation.body or operation.query  # there is something to get wrong
]


def name_of(value: Any) -> str:
    return (
        "fits"
        if value is GenerationMode.POSITIVE
        else f"{value.method}-{value.path}"
        if isinstance(value, Operation)
        else "does-not-fit"
    )


@pytest.mark.parametrize(("path", "body"), GOOD)
def test_good_requests_get_what_the_document_says(shared_daemon: Daemon, path: str, body: dict[str, Any]) -> None:
    case = SCHEMA[path]["POST"].Case(body=body, media_type="application/json")
    reply = case.call(base_url=base(shared_daemon), timeout=TIMEOUT_SEC)
    assert reply.status_code == 200, reply.content
    case.validate_response(reply, checks=CONFORMS)


def test_it_is_served_as_it_is_made(shared_daemon: Daemon) -> None:
    assert shared_daemon.call("GET", "/openapi.json") == document()


@pytest.mark.parametrize(("operation", "mode"), MADE_UP, ids=name_of)
def test_made_up_requests(shared_daemon: Daemon, operation: Any, mode: GenerationMode) -> None:
    known = SCHEMA[operation.path][operation.method.upper()]
    checks = [*CONFORMS, negative_data_rejection] if mode.is_negative else CONFORMS

    @seed(SEED)
    @settings(
        max_examples=EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=known.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if mode.is_positive:
            shorten(operation.path, case.body)
        reply = case.call(base_url=base(shared_daemon), timeout=TIMEOUT_SEC)
        assert reply.status_code != 500, reply.content
        case.validate_response(reply, checks=checks)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    assert shared_daemon.call("GET", "/healthz") == {"status": "ok"}
    assert not [line for line in shared_daemon.log if line.get("event") in ("bug", "box_ended")]


def shorten(path: str, body: Any) -> None:
    """Most made-up requests name no model that there is; give every second one a model, and two tokens to say."""
    if not isinstance(body, dict) or "model" not in body or len(str(body)) % 2:
        return
    body["model"] = "edge"
    for name in ("rag", "keep_alive"):
        body.pop(name, None)
    body.update(dict.fromkeys(LENGTHS.get(path, ()), 2))
    if path in ("/api/chat", "/api/generate"):
        body["options"] = (body.get("options") or {}) | {"num_predict": 2}


def base(daemon: Daemon) -> str:
    return f"http://{daemon.host}:{daemon.port}"
