"""OpenAI's Responses API, without what it would have to store."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge.server import tools
from edge.server.errors import http_error, openai_shape
from edge.server.openai import FINISH, chat_job, citations_of, extension, logprob_rows, rag_job
from edge.server.replies import events, json_response
from edge.server.requests import body, caller_of, service_of
from edge.server.service import Stream, unless_gone
from edge.server.wire import ChatRequest, Rag, decode
from edge.server.wire_responses import ResponsesRequest, as_chat

Event = dict[str, Any]


@dataclass
class _Reply:
    """One response while it comes about."""

    asked: ResponsesRequest
    chat: ChatRequest
    rag: Rag | None
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_whole_only(self) -> bool:
        """Whether tokens say nothing before the last of them has come."""
        return self.rag is not None or tools.is_offered(self.chat)

    def shown(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        asked = self.asked
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": None,
            "incomplete_details": None, "instructions": asked.instructions, "model": asked.model, "output": output,
            "max_output_tokens": asked.max_output_tokens, "parallel_tool_calls": False, "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None}, "store": False, "background": False,
            "temperature": asked.temperature or 0.0, "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "text": {"format": _form(asked)}, "tool_choice": asked.tool_choice or "auto",
            "tools": msgspec.to_builtins(asked.tools or []), "top_logprobs": asked.top_logprobs or 0,
            "truncation": "disabled", "metadata": asked.metadata or {}, "usage": None, **more,
        }  # fmt: skip

    def ended(self, result: dict[str, Any], stream: Stream) -> dict[str, Any]:
        item = self.item(result)
        more = {"usage": _usage(result)} | extension(result, self.rag, stream)
        if item["status"] == "incomplete":
            more["incomplete_details"] = {"reason": "max_output_tokens"}
        return self.shown(item["status"], [item], **more)

    def item(self, result: dict[str, Any]) -> dict[str, Any]:
        """What was said, or called."""
        finish = FINISH[result["finish_reason"]]
        status = "incomplete" if finish == "length" else "completed"
        if self.rag is not None:
            cited = [_annotation(citation) for citation in citations_of(result)]
            return self.message(result["marked"], cited, status)
        message = tools.choice(self.text, self.chat, finish)["message"]
        if "tool_calls" not in message:
            return self.message(message["content"], [], status)
        call = message["tool_calls"][0]
        called = {"call_id": call["id"], **call["function"], "status": "completed"}
        return {"type": "function_call", "id": f"fc_{self.id[5:]}", **called}

    def message(self, text: str, annotations: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {
            "type": "message", "id": f"msg_{self.id[5:]}", "role": "assistant", "status": status,
            "content": [_part(text, annotations, self.logprobs)],
        }  # fmt: skip

    def take(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """A token; returns its log-probabilities, where they were asked for."""
        self.text += message["token"]
        rows = logprob_rows([message])
        self.logprobs += rows
        return rows


async def responses(request: Request) -> Response:
    asked: ResponsesRequest = decode(await body(request), ResponsesRequest)
    chat = as_chat(asked)
    service = service_of(request)
    named = service.model(asked.model)
    rag = asked.rag or (Rag() if named.rag else None)
    do, job = ("ask", rag_job(chat, rag, named)) if rag else ("generate", chat_job(chat, named))
    stream = await unless_gone(request, service.open(caller_of(request), do, **job))
    reply = _Reply(asked, chat, rag)
    if asked.stream:
        return events(_numbered(_told(stream, reply)), stream, done=b"")
    try:
        tokens, result = await unless_gone(request, stream.result())
    finally:
        await stream.close()
    for token in tokens:
        reply.take(token)
    return json_response(reply.ended(result, stream))


async def _numbered(items: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The events with their numbers; an error is the last of them, in the shape of this API and of the others."""
    number = 0
    try:
        async for item in items:
            yield item | {"sequence_number": number}
            number += 1
    except Exception as error:
        told = http_error(error)
        if told is None:
            raise
        shape = openai_shape(told)["error"]
        yield {"type": "error", "error": shape, "sequence_number": number} | {
            key: shape[key] for key in ("code", "message", "param")
        }


async def _told(stream: Stream, reply: _Reply) -> AsyncIterator[Event]:
    for name in ("created", "in_progress"):
        yield {"type": f"response.{name}", "response": reply.shown("in_progress", [])}
    if not reply.is_whole_only:
        for event in _begun(reply):
            yield event
    async for message in stream:
        if "token" in message:
            rows = reply.take(message)
            if not reply.is_whole_only and (message["token"] or rows):
                yield _of(reply, "output_text.delta", delta=message["token"], logprobs=rows)
            continue
        response = reply.ended(message["result"], stream)
        for event in _said(reply, response["output"][0]):
            yield event
        yield {"type": f"response.{response['status']}", "response": response}


def _of(reply: _Reply, name: str, **more: Any) -> Event:
    """An event about the text of the message."""
    return {"type": f"response.{name}", "item_id": f"msg_{reply.id[5:]}", "output_index": 0, "content_index": 0, **more}


def _begun(reply: _Reply) -> Iterator[Event]:
    item = reply.message("", [], "in_progress") | {"content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    yield _of(reply, "content_part.added", part=_part("", [], []))


def _said(reply: _Reply, item: dict[str, Any]) -> Iterator[Event]:
    """What follows when the whole of it is known."""
    if item["type"] == "function_call":
        about = {"item_id": item["id"], "output_index": 0}
        begun = item | {"arguments": "", "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": 0, "item": begun}
        yield {"type": "response.function_call_arguments.delta", "delta": item["arguments"], **about}
        done = {"arguments": item["arguments"], "name": item["name"]}
        yield {"type": "response.function_call_arguments.done", **done, **about}
    else:
        part = item["content"][0]
        if reply.is_whole_only:
            yield from _begun(reply)
            yield _of(reply, "output_text.delta", delta=part["text"], logprobs=part["logprobs"])
        for place, annotation in enumerate(part["annotations"]):
            yield _of(reply, "output_text.annotation.added", annotation_index=place, annotation=annotation)
        yield _of(reply, "output_text.done", text=part["text"], logprobs=part["logprobs"])
        yield _of(reply, "content_part.done", part=part)
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def _part(text: str, annotations: list[dict[str, Any]], logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def _annotation(citation: dict[str, Any]) -> dict[str, Any]:
    """A citation as this API has it: the keys of `url_citation` beside the others."""
    rest = {key: value for key, value in citation.items() if key != "url_citation"}
    own: dict[str, Any] = citation["url_citation"]
    return rest | own


def _form(asked: ResponsesRequest) -> dict[str, Any]:
    form = asked.text.format if asked.text is not None else None
    if form is None:
        return {"type": "text"}
    return {key: value for key, value in msgspec.to_builtins(form).items() if value is not None}


def _usage(result: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = result["prompt_tokens"], result["completion_tokens"]
    return {
        "input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion,
        "input_tokens_details": {"cached_tokens": result["cached_tokens"], "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
