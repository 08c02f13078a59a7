"""OpenAI's API: chat completions, completions, models."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from edge.errors import UsageError
from edge.server import tools
from edge.server.replies import events, json_response
from edge.server.requests import body, caller_of, service_of
from edge.server.service import Model, Service, Stream, unless_gone
from edge.server.wire import ChatMessage, ChatRequest, CompletionRequest, Rag, decode, unsupported

FINISH = {"stop": "stop", "length": "length", "repetition": "stop", "cancelled": "stop", "abstained": "stop"}
_CITED = ("marker", "document", "name", "page", "start", "end", "score", "text", "sentence")


async def models(request: Request) -> Response:
    service = service_of(request)
    data = [_model_card(service, name) for name in service.model_names]
    return json_response({"object": "list", "data": data})


async def model(request: Request) -> Response:
    service = service_of(request)
    return json_response(_model_card(service, service.model(request.path_params["name"]).name))


def _model_card(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": service.bundle.manifest.model.base.id}


async def chat(request: Request) -> Response:
    service = service_of(request)
    asked: ChatRequest = decode(await body(request), ChatRequest)
    unsupported(asked)
    named = service.model(asked.model)
    rag = asked.rag or (Rag() if named.rag else None)
    do, job = ("ask", rag_job(asked, rag, named)) if rag else ("generate", chat_job(asked, named))
    stream = await unless_gone(request, service.open(caller_of(request), do, **job))
    id = f"chatcmpl-{uuid.uuid4().hex}"
    if asked.stream:
        return events(_chat_events(stream, asked, rag, id), stream)
    try:
        tokens, result = await unless_gone(request, stream.result())
    finally:
        await stream.close()
    choice: dict[str, Any] = {"index": 0, "finish_reason": FINISH[result["finish_reason"]]}
    if rag:
        choice["message"] = {"role": "assistant", "content": result["marked"], "annotations": citations_of(result)}
    else:
        choice |= tools.choice("".join(token["token"] for token in tokens), asked, choice["finish_reason"])
    choice["logprobs"] = _logprobs(tokens) if asked.logprobs else None
    reply = _head(id, "chat.completion", asked.model) | {"choices": [choice], "usage": usage(result)}
    return json_response(reply | extension(result, rag, stream))


def chat_job(asked: ChatRequest, named: Model) -> dict[str, Any]:
    """The model alone: every turn goes to it, tools are offered by instruction and grammar."""
    messages, guidance = tools.offered(asked)
    return {"messages": messages, "adapter": named.adapter, "sampling": sampling(asked, guidance)}


def rag_job(asked: ChatRequest, rag: Rag, named: Model) -> dict[str, Any]:
    """From the documents: the last turn is the question, the turns before it make it stand alone.

    :raises UsageError: the last turn is not the user's, or a parameter cannot be kept.
    """
    for name in ("tools", "logprobs"):
        if getattr(asked, name):
            raise UsageError(f"{name} cannot be used with answers from the documents: ask the model without {'+rag'!r}")
    if asked.response_format is not None and asked.response_format.type != "text":
        raise UsageError("response_format cannot be used with answers from the documents: they are quoted and cited")
    question, history = turns_of(asked.messages)
    return {
        "question": question, "history": history, "filter": rag.filter, "top_k": rag.top_k, "adapter": named.adapter,
        "sampling": sampling(asked, None),
    }  # fmt: skip


def turns_of(messages: list[ChatMessage]) -> tuple[str, list[tuple[str, str]]]:
    """The question, and earlier questions with their answers. System messages do not count: the bundle has its own.

    :raises UsageError: the last message is not the user's.
    """
    said = [message for message in messages if message.role in ("user", "assistant")]
    if not said or said[-1].role != "user" or not said[-1].text.strip():
        raise UsageError("the last message must be the user's question")
    history: list[tuple[str, str]] = []
    question = ""
    for message in said[:-1]:
        if message.role == "user":
            question = message.text
        elif question:
            history.append((question, message.text))
            question = ""
    return said[-1].text, history


def sampling(asked: ChatRequest | CompletionRequest, guidance: dict[str, str] | None) -> dict[str, Any]:
    """What `edge.engine.base.Sampling` is made of; without a temperature the answer is greedy."""
    most = asked.max_tokens
    if isinstance(asked, ChatRequest):
        most = asked.max_completion_tokens or most
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        if asked.top_logprobs and not asked.logprobs:
            raise UsageError("top_logprobs needs logprobs: true")
    else:
        logprobs = asked.logprobs
    chosen = {
        "max_tokens": most, "temperature": asked.temperature, "top_p": asked.top_p, "seed": asked.seed,
        "stop": [asked.stop] if isinstance(asked.stop, str) else asked.stop, "guidance": guidance, "logprobs": logprobs,
    }  # fmt: skip
    return {name: value for name, value in chosen.items() if value is not None}


async def _chat_events(stream: Stream, asked: ChatRequest, rag: Rag | None, id: str) -> AsyncIterator[dict[str, Any]]:
    head = _head(id, "chat.completion.chunk", asked.model)

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}

    yield chunk({"role": "assistant", "content": ""})
    tokens: list[dict[str, Any]] = []
    async for message in stream:
        if "token" in message:
            tokens.append(message)
            if rag is None and not tools.is_offered(asked):
                yield chunk({"content": message["token"]}, logprobs=_logprobs([message]) if asked.logprobs else None)
            elif rag is not None and rag.draft:
                yield chunk({"draft": message["token"]})
            continue
        result = message["result"]
        finish = FINISH[result["finish_reason"]]
        if rag is not None:
            yield chunk({"content": result["marked"], "annotations": citations_of(result)})
        elif tools.is_offered(asked):
            choice = tools.choice("".join(token["token"] for token in tokens), asked, finish)
            finish = choice["finish_reason"]
            yield chunk(tools.delta(choice["message"]), logprobs=_logprobs(tokens) if asked.logprobs else None)
        yield chunk({}, finish) | extension(result, rag, stream)
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield head | {"choices": [], "usage": usage(result)}


def citations_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The citations: OpenAI's keys, with the span in the document beside them."""
    found = []
    for place, citation in enumerate(result["citations"]):
        start, end = next((start, end) for start, end, of in result["marks"] if of == place)
        cited = {"title": citation["title"] or citation["name"], "url": f"/#document={quote(citation['document'])}"}
        found.append(
            {"type": "url_citation", "url_citation": cited | {"start_index": start, "end_index": end}}
            | {key: citation[key] for key in _CITED}
        )
    return found


def usage(result: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = result["prompt_tokens"], result["completion_tokens"]
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": result["cached_tokens"]},
    }  # fmt: skip


def extension(result: dict[str, Any], rag: Rag | None, stream: Stream) -> dict[str, Any]:
    """What no client asks for and a person may want: times in seconds, and how the answer came about."""
    names = ["ttft_sec", "decode_tok_per_sec"]
    if rag is not None:
        names += ["abstained", "quoted", "unsupported", "marks", "retrieve_sec", "question", "feedback_id"]
    told = {name: result[name] for name in names if name in result}
    return {"edge": told | {"queued_sec": round(stream.queued_sec, 4)}}


def _head(id: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def _logprobs(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": logprob_rows(tokens), "refusal": None}


def logprob_rows(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_logprob(token) for token in tokens if "logprobs" in token]


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    own = token["logprobs"]
    top = [_one_logprob(text, logprob) for _, text, logprob in own["top"]]
    return _one_logprob(token["token"], own["logprob"]) | {"top_logprobs": top}


def _one_logprob(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


async def completions(request: Request) -> Response:
    """The older endpoint: plain text goes on, no chat template."""
    service = service_of(request)
    asked: CompletionRequest = decode(await body(request), CompletionRequest)
    unsupported(asked)
    named = service.model(asked.model)
    if named.rag:
        raise UsageError("answers from the documents are at /v1/chat/completions")
    prompt = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0]
    wanted = sampling(asked, None)
    wanted.setdefault("max_tokens", 16)  # as OpenAI's API
    job = {"prompt": prompt, "adapter": named.adapter, "sampling": wanted}
    stream = await unless_gone(request, service.open(caller_of(request), "generate", **job))
    id = f"cmpl-{uuid.uuid4().hex}"
    if asked.stream:
        return events(_completion_events(stream, asked, id), stream)
    try:
        tokens, result = await unless_gone(request, stream.result())
    finally:
        await stream.close()
    choice = _completion_choice(
        "".join(token["token"] for token in tokens), tokens, asked, FINISH[result["finish_reason"]]
    )
    reply = _head(id, "text_completion", asked.model) | {"choices": [choice], "usage": usage(result)}
    return json_response(reply | extension(result, None, stream))


async def _completion_events(stream: Stream, asked: CompletionRequest, id: str) -> AsyncIterator[dict[str, Any]]:
    head = _head(id, "text_completion", asked.model)
    async for message in stream:
        if "token" in message:
            yield head | {"choices": [_completion_choice(message["token"], [message], asked, None)]}
            continue
        result = message["result"]
        yield head | {"choices": [_completion_choice("", [], asked, FINISH[result["finish_reason"]])]}
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield head | {"choices": [], "usage": usage(result)}


def _completion_choice(
    text: str, tokens: list[dict[str, Any]], asked: CompletionRequest, finish: str | None
) -> dict[str, Any]:
    logprobs = None
    if asked.logprobs is not None:
        rows = logprob_rows(tokens)
        logprobs = {
            "tokens": [row["token"] for row in rows],
            "token_logprobs": [row["logprob"] for row in rows],
            "top_logprobs": [{top["token"]: top["logprob"] for top in row["top_logprobs"]} for row in rows],
        }
    return {"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}
