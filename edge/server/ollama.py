"""Ollama's API, for front ends that speak only that: /api/chat, /api/generate, /api/embed, and what there is."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge.errors import UsageError
from edge.server import tools
from edge.server.embeddings import embed, floats
from edge.server.errors import HttpError
from edge.server.ollama_models import loaded_card, model_card, model_details
from edge.server.openai import FINISH, chat_job, citations_of, rag_job
from edge.server.replies import json_response, lines
from edge.server.requests import body, caller_of, service_of
from edge.server.service import Service, Stream, unless_gone
from edge.server.wire import ChatMessage, ChatRequest, Rag, decode
from edge.server.wire_ollama import (
    OllamaChat,
    OllamaEmbed,
    OllamaEmbedding,
    OllamaGenerate,
    OllamaShow,
    as_chat,
    keep_alive_sec,
    turn,
)

_FOR_GOOD_SEC = 1e9
"""Beyond it there is no date to be told."""
Said = Callable[[dict[str, Any]], dict[str, Any]]
"""How a message is put into a line of the reply."""


async def chat(request: Request) -> Response:
    asked: OllamaChat = decode(await body(request), OllamaChat)
    service = service_of(request)
    wanted = as_chat(asked, [turn(message) for message in asked.messages], _context_tokens(service))
    if not asked.messages:
        return await _load(request, asked, lambda message: {"message": message})
    return await _answer(request, asked, wanted, lambda message: {"message": message}, None)


async def generate(request: Request) -> Response:
    asked: OllamaGenerate = decode(await body(request), OllamaGenerate)
    service = service_of(request)
    messages = [ChatMessage("system", asked.system)] if asked.system else []
    wanted = as_chat(asked, [*messages, ChatMessage("user", asked.prompt)], _context_tokens(service))
    if asked.raw and (asked.system or asked.rag or asked.model.removesuffix(":latest").endswith("+rag")):
        raise UsageError("raw sends the prompt as it is: it goes with neither system nor answers from the documents")
    if not asked.prompt:
        return await _load(request, asked, _plain)
    return await _answer(request, asked, wanted, _plain, asked.prompt if asked.raw else None)


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    return {"response": message["content"]}


async def _answer(
    request: Request, asked: OllamaChat | OllamaGenerate, wanted: ChatRequest, said: Said, raw: str | None
) -> Response:
    service, started = service_of(request), time.monotonic()
    named = service.model(asked.model)
    rag = asked.rag or (Rag() if named.rag else None)
    if rag:
        do, job = "ask", rag_job(wanted, rag, named)
    else:
        do, job = "generate", chat_job(wanted, named)
    if raw is not None:
        del job["messages"]
        job["prompt"] = raw
    keep = keep_alive_sec(asked.keep_alive)
    stream = await unless_gone(request, service.open(caller_of(request), do, **job))
    service.keep_for(keep)
    pieces = _pieces(stream, wanted, rag, said, started)
    if asked.stream is not False:
        return lines(pieces, stream)
    try:
        return json_response(await unless_gone(request, _whole(pieces)))
    finally:
        await stream.close()


async def _pieces(
    stream: Stream, wanted: ChatRequest, rag: Rag | None, said: Said, started: float
) -> AsyncIterator[dict[str, Any]]:
    """The lines of a stream; the last of them has `done`, and the counts and times (ns)."""
    text, waits = "", rag is not None or tools.is_offered(wanted)
    async for message in stream:
        if "token" in message:
            text += message["token"]
            if not waits and (message["token"] or "logprobs" in message):
                logprobs = {"logprobs": [_logprob(message)]} if "logprobs" in message else {}
                yield _line(wanted.model, said(_message(message["token"]))) | logprobs
            continue
        result = message["result"]
        finish = FINISH[result["finish_reason"]]
        more: dict[str, Any] = {}
        if rag is not None:
            yield _line(wanted.model, said(_message(result["marked"])))
            more = {"citations": citations_of(result)}
        elif waits:
            yield _line(wanted.model, said(_called(tools.choice(text, wanted, finish)["message"])))
        last = _line(wanted.model, said(_message(""))) | {"done": True, "done_reason": finish}
        yield last | _times(result, time.monotonic() - started, stream.queued_sec) | more


async def _whole(pieces: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The lines of a stream as the one object that clients get without `stream`."""
    found = [piece async for piece in pieces]
    last = found[-1]
    logprobs = [entry for piece in found for entry in piece.get("logprobs", ())]
    if logprobs:
        last["logprobs"] = logprobs
    if "message" not in last:
        return last | {"response": "".join(piece["response"] for piece in found)}
    message = last["message"] | {"content": "".join(piece["message"]["content"] for piece in found)}
    for piece in found:
        if "tool_calls" in piece["message"]:
            message["tool_calls"] = piece["message"]["tool_calls"]
    return last | {"message": message}


def _line(model: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat(), **said, "done": False}


def _message(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _called(message: dict[str, Any]) -> dict[str, Any]:
    """A message of OpenAI's API as Ollama has it: arguments are an object."""
    if "tool_calls" not in message:
        return _message(message["content"])
    calls = [call["function"] for call in message["tool_calls"]]
    listed = [{"function": {"name": one["name"], "arguments": json.loads(one["arguments"])}} for one in calls]
    return _message("") | {"tool_calls": listed}


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    own = token["logprobs"]
    top = [{"token": text, "logprob": logprob} for _, text, logprob in own["top"]]
    return {"token": token["token"], "logprob": own["logprob"], "top_logprobs": top}


def _times(result: dict[str, Any], total_sec: float, queued_sec: float) -> dict[str, int]:
    """Counts, and times in nanoseconds; what is neither reading, writing nor waiting is mostly loading."""
    tokens, rate = result["completion_tokens"], result["decode_tok_per_sec"]
    read = result["ttft_sec"]
    wrote = (tokens - 1) / rate if rate else 0.0
    rest = total_sec - queued_sec - read - wrote - result.get("retrieve_sec", 0.0)
    return {
        "total_duration": _ns(total_sec), "load_duration": _ns(rest), "prompt_eval_count": result["prompt_tokens"],
        "prompt_eval_duration": _ns(read), "eval_count": tokens, "eval_duration": _ns(wrote),
    }  # fmt: skip


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


async def _load(request: Request, asked: OllamaChat | OllamaGenerate, said: Said) -> Response:
    """A request without a prompt: the model is loaded, or with `keep_alive: 0` given up."""
    service = service_of(request)
    service.model(asked.model)
    keep = keep_alive_sec(asked.keep_alive)
    reason = "unload" if keep == 0 else "load"
    if reason == "load":
        await unless_gone(request, service.ask("load"))
    service.keep_for(keep)
    return json_response(_line(asked.model, said(_message(""))) | {"done": True, "done_reason": reason})


def _context_tokens(service: Service) -> int:
    """Of the loaded model, which the memory budget may have cut; else of the bundle."""
    known: int = service.backend.state.get("context_tokens") or service.bundle.manifest.model.context_tokens
    return known


# -- embeddings ---------------------------------------------------------------------------------------------------


async def embed_texts(request: Request) -> Response:
    asked: OllamaEmbed = decode(await body(request), OllamaEmbed)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    keep, started = keep_alive_sec(asked.keep_alive), time.monotonic()
    rows, tokens = await embed(request, asked.model, texts, asked.dimensions, truncate=asked.truncate is not False)
    total = _ns(time.monotonic() - started)
    service_of(request).keep_for(keep)
    counts = {"total_duration": total, "load_duration": 0, "prompt_eval_count": tokens}
    return json_response({"model": asked.model, "embeddings": [floats(row) for row in rows], **counts})


async def embed_text(request: Request) -> Response:
    asked: OllamaEmbedding = decode(await body(request), OllamaEmbedding)
    keep = keep_alive_sec(asked.keep_alive)
    rows, _ = await embed(request, asked.model, [asked.prompt], None, truncate=True)
    service_of(request).keep_for(keep)
    return json_response({"embedding": floats(rows[0])})


# -- what there is ------------------------------------------------------------------------------------------------


async def tags(request: Request) -> Response:
    service = service_of(request)
    return json_response({"models": [model_card(service.bundle, name) for name in service.model_names]})


async def ps(request: Request) -> Response:
    """The loaded model, as every name that it has; none while nothing is loaded."""
    service = service_of(request)
    state = service.backend.state
    if not state.get("engine_pid"):
        return json_response({"models": []})
    left = max(0.0, service.keep_sec - (time.monotonic() - service.used))
    until = datetime.now(UTC) + timedelta(seconds=left) if left < _FOR_GOOD_SEC else datetime.max
    card = loaded_card(service.bundle, service.bundle.manifest.name, state, until)
    return json_response({"models": [card]})


async def show(request: Request) -> Response:
    asked: OllamaShow = decode(await body(request), OllamaShow)
    name = asked.model or asked.name
    if not name:
        raise UsageError("model: say which; /api/tags lists them")
    service = service_of(request)
    return json_response(model_details(service.bundle, service.model(name)))


async def version(_: Request) -> Response:
    from importlib.metadata import version as version_of  # takes longer than it is asked for

    return json_response({"version": version_of("edge-slm")})


async def not_here(request: Request) -> Response:
    """Pull, push, create, copy, delete: models come as bundles, and over no API."""
    raise HttpError(
        501, f"{request.url.path} is not done here: the model is the bundle that the daemon was started with"
    )
