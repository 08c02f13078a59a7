"""Replies: JSON, streams of server-sent events, and of JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from edge.server.errors import HttpError, http_error, ollama_shape, openai_shape
from edge.server.service import Stream

_JSON = "application/json"


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, _JSON)


def events(items: AsyncIterator[dict[str, Any]], stream: Stream, done: bytes = b"data: [DONE]\n\n") -> Response:
    """Server-sent events; an error in the middle is the last of them. `stream` is closed however it ends."""

    def encode(item: dict[str, Any]) -> bytes:
        name = f"event: {item['type']}\n".encode() if isinstance(item.get("type"), str) else b""
        return name + b"data: " + msgspec.json.encode(item) + b"\n\n"

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    written = _written(items, stream, encode, openai_shape, done)
    return StreamingResponse(written, 200, headers, "text/event-stream")


def lines(items: AsyncIterator[dict[str, Any]], stream: Stream) -> Response:
    """One JSON object a line, as Ollama streams."""

    def encode(item: dict[str, Any]) -> bytes:
        return msgspec.json.encode(item) + b"\n"

    return StreamingResponse(_written(items, stream, encode, ollama_shape, b""), 200, None, "application/x-ndjson")


async def _written(
    items: AsyncIterator[dict[str, Any]],
    stream: Stream,
    encode: Callable[[dict[str, Any]], bytes],
    shape: Callable[[HttpError], dict[str, Any]],
    done: bytes,
) -> AsyncIterator[bytes]:
    try:
        async for item in items:
            yield encode(item)
        if done:
            yield done
    except Exception as error:
        told = http_error(error)
        if told is None:
            raise
        yield encode(shape(told))
        if done:
            yield done
    finally:
        await stream.close()
