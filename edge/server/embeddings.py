"""Vectors of texts, as OpenAI's API has them; Ollama's routes use the same."""

from __future__ import annotations

import base64
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge.errors import UsageError
from edge.server.replies import json_response
from edge.server.requests import body, service_of
from edge.server.service import Service, unless_gone
from edge.server.wire import EmbeddingRequest, decode


async def embeddings(request: Request) -> Response:
    data = await body(request)
    try:
        asked: EmbeddingRequest = decode(data, EmbeddingRequest)
    except UsageError:
        _refuse_token_ids(data)
        raise
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    rows, tokens = await embed(request, asked.model, texts, asked.dimensions)
    vectors = rows if asked.encoding_format == "base64" else [floats(row) for row in rows]
    listed = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": listed, "model": asked.model, "usage": usage})


def _refuse_token_ids(data: bytes) -> None:
    """OpenAI's API takes them too. Those that clients make are of OpenAI's tokenizer: other words, to this embedder.

    :raises UsageError: the input is token ids; says how to have clients send text.
    """
    given = decode(data, Any)
    texts = given.get("input") if isinstance(given, dict) else None
    first = texts[0] if isinstance(texts, list) and texts else None
    if isinstance(first[0] if isinstance(first, list) and first else first, int):
        raise UsageError(
            "input: token ids are those of another model's tokenizer, and would be other words here: send the text "
            "(in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
        )


async def embed(
    request: Request, model: str, texts: list[str], dimensions: int | None, *, truncate: bool = False
) -> tuple[list[str], int]:
    """Vectors as little-endian float32 in base64, and the tokens that they took.

    :param truncate: of a text that is too long take the beginning.
    :raises HttpError: there is no such model (404).
    :raises UsageError: a text is empty, or the vectors have another number of dimensions.
    """
    service = service_of(request)
    section = service.bundle.manifest.embedder
    if model not in (embedder_name(service), "edge", section.path):
        service.model(model)  # the bundle's name stands for its embedder too; any other is a 404
    if dimensions not in (None, section.dim):
        raise UsageError(f"dimensions: the embedder makes vectors of {section.dim}; leave it out")
    if not all(text.strip() for text in texts):
        raise UsageError("input: a text is empty")
    found = await unless_gone(request, service.ask("embed", texts=texts, truncate=truncate))
    return found["vectors"], found["tokens"]


def floats(row: str) -> list[float]:
    return list(memoryview(base64.b64decode(row)).cast("f"))


def embedder_name(service: Service) -> str:
    return service.bundle.manifest.embedder.base.id.rpartition("/")[2]
