"""Texts in the order in which they answer a query, in the shape that clients of Cohere's and Jina's APIs know."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge.bundle import RerankerSection
from edge.errors import UsageError
from edge.server.errors import HttpError
from edge.server.replies import json_response
from edge.server.requests import body, service_of
from edge.server.service import unless_gone
from edge.server.wire import RerankDocument, RerankRequest, decode


async def rerank(request: Request) -> Response:
    """The relevance of each document, best first. The embedder's cosine is no substitute under this name: 501.

    A document that is longer than the model reads is cut at its end, and its result says so.
    """
    service = service_of(request)
    section = service.bundle.manifest.reranker
    if section is None:
        raise HttpError(
            501, "this bundle holds no reranker: use /v1/search, whose hits are in the order of their scores"
        )
    asked: RerankRequest = decode(await body(request), RerankRequest)
    name = reranker_name(section)
    if asked.model not in (None, name, "edge", section.path):
        service.model(asked.model or "")  # the bundle's name stands for its reranker too; any other is a 404
    texts = [one.text if isinstance(one, RerankDocument) else one for one in asked.documents]
    if not asked.query.strip():
        raise UsageError("query: it is empty")
    scored: list[dict[str, Any]] = await unless_gone(request, service.ask("rerank", query=asked.query, texts=texts))
    order = sorted(range(len(texts)), key=lambda place: (-scored[place]["relevance"], place))[: asked.top_n]
    results = [
        {"index": place, "relevance_score": scored[place]["relevance"], "truncated": scored[place]["is_cut"]}
        | ({"document": {"text": texts[place]}} if asked.return_documents else {})
        for place in order
    ]
    tokens = sum(one["tokens"] for one in scored)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "model": asked.model or name, "results": results, "usage": usage})


def reranker_name(section: RerankerSection) -> str:
    return section.base.id.rpartition("/")[2]
