"""The daemon's routes, and what every request passes before and after them."""

from __future__ import annotations

import traceback
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from edge.errors import EdgeError
from edge.server import embeddings, ollama, openai, own, page, rerank, responses, status
from edge.server.documents import Documents
from edge.server.errors import HttpError, http_error, ollama_shape, openai_shape
from edge.server.gate import Full
from edge.server.guard import Guard, Rules
from edge.server.journal import Journal, Requests
from edge.server.keys import Keys
from edge.server.replies import json_response
from edge.server.service import Service
from edge.server.traces import Traces

ROUTES = [
    Route("/v1/chat/completions", openai.chat, methods=["POST"]),
    Route("/v1/completions", openai.completions, methods=["POST"]),
    Route("/v1/responses", responses.responses, methods=["POST"]),
    Route("/v1/embeddings", embeddings.embeddings, methods=["POST"]),
    Route("/v1/models", openai.models),
    Route("/v1/models/{name}", openai.model),
    Route("/v1/search", own.search, methods=["POST"]),
    Route("/v1/rerank", rerank.rerank, methods=["POST"]),
    Route("/v1/source", own.source),
    Route("/v1/feedback", own.feedback, methods=["POST"]),
    Route("/v1/index", own.index_status),
    Route("/v1/index/documents", own.list_documents, methods=["GET"]),
    Route("/v1/index/documents", own.post_document, methods=["POST"]),
    Route("/v1/index/documents/{name}", own.get_document, methods=["GET"]),
    Route("/v1/index/documents/{name}", own.put_document, methods=["PUT"]),
    Route("/v1/index/documents/{name}", own.delete_document, methods=["DELETE"]),
    Route("/api/chat", ollama.chat, methods=["POST"]),
    Route("/api/generate", ollama.generate, methods=["POST"]),
    Route("/api/embed", ollama.embed_texts, methods=["POST"]),
    Route("/api/embeddings", ollama.embed_text, methods=["POST"]),
    Route("/api/tags", ollama.tags),
    Route("/api/ps", ollama.ps),
    Route("/api/show", ollama.show, methods=["POST"]),
    Route("/api/version", ollama.version),
    *(Route(f"/api/{name}", ollama.not_here, methods=["POST"]) for name in ("pull", "push", "create", "copy")),
    Route("/api/delete", ollama.not_here, methods=["DELETE"]),
    Route("/v1/status", status.status),
    Route("/healthz", status.healthz),
    Route("/readyz", status.readyz),
    Route("/metrics", status.metrics),
    Route("/openapi.json", status.openapi),
    Route("/", page.index),
    Route("/page/{file}", page.asset),
]


_UNTRACED = ("/healthz", "/readyz", "/metrics", "/v1/status", "/page/{file}")
"""What is asked for all the time, and says nothing of a request."""


def build(
    service: Service,
    documents: Documents,
    keys: Keys,
    rules: Rules,
    journal: Journal,
    state: Path,
    traces: Traces | None = None,
) -> Starlette:
    """The application; `state` is the daemon's folder."""
    tracing = [] if traces is None else [Middleware(traces.middleware, route_of=_route_of)]
    app = Starlette(
        routes=ROUTES,
        middleware=[*tracing, Middleware(Requests, journal=journal), Middleware(Guard, keys=keys, rules=rules)],
        exception_handlers={
            HTTPException: _refused,
            HttpError: _failed,
            Full: _failed,
            EdgeError: _failed,
            Exception: _bug,
        },
    )
    app.state.service, app.state.documents, app.state.journal = service, documents, journal
    app.state.state, app.state.is_draining = state, False
    return app


async def _failed(request: Request, error: Exception) -> Response:
    told = http_error(error)
    assert told is not None
    if told.status >= 429:
        request.app.state.service.metrics.failed(type(error).__name__)
    shape = ollama_shape if request.url.path.startswith("/api/") else openai_shape
    return json_response(shape(told), told.status, told.headers)


async def _bug(request: Request, error: Exception) -> Response:
    """An error that nobody meant to raise: the client learns that it happened, the log learns where."""
    where = "".join(traceback.format_exception(error))[-4000:]
    request.app.state.journal.event("bug", error=repr(error), where=where)
    return await _failed(request, HttpError(500, "an error in the daemon itself; its log says where", "bug"))


async def _refused(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such path, or method; a form that cannot be read."""
    assert isinstance(error, HTTPException)
    text = {404: f"there is nothing at {request.url.path[:200]}", 405: f"{request.method} is not possible here"}
    headers = error.headers
    if error.status_code == 405:  # the router names the methods of the first route alone that has this path
        headers = {"Allow": ", ".join(_methods(request))}
    told = HttpError(error.status_code, text.get(error.status_code, str(error.detail)), None, headers)
    return await _failed(request, told)


def _route_of(scope: Scope) -> str:
    """The path as the table of routes has it: what clients put into it may name a document. "": it is not traced."""
    found = next((route.path for route in ROUTES if route.matches(scope)[0] is not Match.NONE), "")
    return "" if found in _UNTRACED else found


def _methods(request: Request) -> list[str]:
    routes = [route for route in ROUTES if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in route.methods or ()})
