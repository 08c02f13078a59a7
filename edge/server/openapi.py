"""The OpenAPI document, made from the requests' structs and a table of the routes; loaded when somebody asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from edge.server import wire, wire_ollama, wire_responses
from edge.server import wire_replies as openai
from edge.server import wire_replies_ollama as ollama
from edge.server import wire_replies_own as own
from edge.server.guard import needed_scope

_JSON = "application/json"
_EVENTS = "text/event-stream"
_LINES = "application/x-ndjson"
_NAME = "^[A-Za-z0-9_]([A-Za-z0-9_ .,()+-]{0,149}[A-Za-z0-9_,()+-])?$"
_BYTES = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": _BYTES}, "required": ["file"], "additionalProperties": False}

ASKING = (400, 404, 413, 429, 503)  # of what the model works on
LOOKING = (400, 413, 503)  # of what needs the index or the embedder alone


@dataclass(frozen=True)
class Operation:
    """A method of a path. Statuses that the guard gives are the same everywhere, and not among `errors`."""

    method: str
    path: str
    summary: str
    reply: Any = None  # a struct; None: there is none but errors
    status: int = 200
    request: Any = None  # a struct
    body: dict[str, Any] | None = None  # media type -> schema, where it is no struct
    stream: str | None = None  # media type of the same reply as a stream
    kind: str = _JSON  # media type of the reply
    errors: tuple[int, ...] = ()
    others: tuple[tuple[int, Any], ...] = ()  # further statuses, with their structs
    query: tuple[str, ...] = ()  # names of required parameters


def _post(
    path: str, summary: str, request: Any, reply: Any, errors: tuple[int, ...], stream: str | None = None
) -> Operation:
    return Operation("post", path, summary, reply, request=request, errors=errors, stream=stream)


OPERATIONS = (
    _post("/v1/chat/completions", "Chat with the model; NAME+rag answers from the documents, with citations.",
          wire.ChatRequest, openai.ChatCompletion, ASKING, _EVENTS),
    _post("/v1/completions", "Let the model go on with a text.",
          wire.CompletionRequest, openai.TextCompletion, ASKING, _EVENTS),
    _post("/v1/responses", "The same as a chat, as OpenAI's Responses API has it; nothing is stored.",
          wire_responses.ResponsesRequest, openai.ResponseObject, ASKING, _EVENTS),
    _post("/v1/embeddings", "Vectors of texts.", wire.EmbeddingRequest, openai.Embeddings, (*LOOKING, 404)),
    Operation("get", "/v1/models", "The names that requests may give.", openai.Models),
    Operation("get", "/v1/models/{name}", "One of them.", openai.ModelCard, errors=(404,)),
    _post("/v1/search", "The best passages for a query.", wire.SearchRequest, own.SearchHits, LOOKING),
    _post("/v1/rerank", "Texts in the order in which they answer a query; 501 where the bundle has no reranker.",
          wire.RerankRequest, own.Reranked, (*LOOKING, 404, 501)),
    Operation("get", "/v1/source", "The extracted text of a document.", own.SourceText, query=("document",),
              errors=(404, 503)),
    _post("/v1/feedback", "A thumb for an answer.", wire.FeedbackRequest, own.Rated, LOOKING),
    Operation("get", "/v1/index", "What is in the index.", own.IndexStatus, errors=(503,)),
    Operation("get", "/v1/index/documents", "The documents that came over HTTP.", own.DocumentRecords),
    Operation("post", "/v1/index/documents", "Add or replace a document, as a form.", own.DocumentRecord, 202,
              body={"multipart/form-data": _FORM}, errors=(400, 413, 415, 503)),
    Operation("get", "/v1/index/documents/{name}", "How far a document is.", own.DocumentRecord,
              errors=(400, 404)),
    Operation("put", "/v1/index/documents/{name}", "Add or replace a document; the body is its bytes.",
              own.DocumentRecord, 202, body={"application/octet-stream": _BYTES}, errors=(400, 413, 415, 503)),
    Operation("delete", "/v1/index/documents/{name}", "Remove a document.", own.DocumentRecord, 202,
              errors=(400, 404)),
    _post("/api/chat", "Ollama: chat.", wire_ollama.OllamaChat, ollama.OllamaChatReply, ASKING, _LINES),
    _post("/api/generate", "Ollama: answer a prompt.", wire_ollama.OllamaGenerate, ollama.OllamaGenerateReply,
          ASKING, _LINES),
    _post("/api/embed", "Ollama: vectors of texts.", wire_ollama.OllamaEmbed, ollama.OllamaEmbeddings,
          (*LOOKING, 404)),
    _post("/api/embeddings", "Ollama: the vector of a text.", wire_ollama.OllamaEmbedding,
          ollama.OllamaOneEmbedding, (*LOOKING, 404)),
    Operation("get", "/api/tags", "Ollama: the models.", ollama.OllamaModels),
    Operation("get", "/api/ps", "Ollama: what is loaded.", ollama.OllamaProcesses),
    _post("/api/show", "Ollama: one model.", wire_ollama.OllamaShow, ollama.OllamaCard, (400, 404, 413, 503)),
    Operation("get", "/api/version", "Ollama: of this daemon.", ollama.OllamaVersion),
    *(Operation("post", f"/api/{name}", "Ollama: not done here; the model is the bundle.", errors=(501,))
      for name in ("pull", "push", "create", "copy")),
    Operation("delete", "/api/delete", "Ollama: not done here.", errors=(501,)),
    Operation("get", "/v1/status", "Memory by ledger line, tokens per second, the queue.", own.Status),
    Operation("get", "/healthz", "Alive.", own.Health),
    Operation("get", "/readyz", "Whether a question would be answered.", own.Ready,
              others=((503, own.Ready),)),
    Operation("get", "/metrics", "For Prometheus.", str, kind="text/plain"),
    Operation("get", "/openapi.json", "This document.", dict[str, Any]),
)  # fmt: skip


def document() -> dict[str, Any]:
    """The whole document, version 3.1."""
    wanted = {kind: None for one in OPERATIONS for kind in (one.request, one.reply, *(kind for _, kind in one.others))}
    kinds = [kind for kind in (*wanted, openai.Error, ollama.OllamaError) if kind is not None]
    found, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(kinds, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, schemas)
    about = {
        "title": "edge", "version": version("edge-slm"),
        "description": "Questions about documents, answered on this machine. A stream that cannot go on ends with an "
        "error. Keys are needed where one was made (`edge key create`).",
    }  # fmt: skip
    keys = {"key": {"type": "http", "scheme": "bearer", "description": "made by `edge key create`"}}
    return {
        "openapi": "3.1.0", "info": about, "paths": paths,
        "components": {"schemas": components, "securitySchemes": keys},
    }  # fmt: skip


def _operation(one: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    scope = needed_scope(one.path)
    made: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{one.method}{one.path}").strip("_"),
        "summary": one.summary,
        "responses": {str(status): reply for status, reply in _replies(one, schemas, is_open=scope is None)},
        "security": [] if scope is None else [{"key": [scope]}, {}],
    }
    if parameters := list(_parameters(one)):
        made["parameters"] = parameters
    if one.request is not None:
        made["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas[one.request]}}}
    elif one.body is not None:
        content = {kind: {"schema": schema} for kind, schema in one.body.items()}
        made["requestBody"] = {"required": True, "content": content}
    return made


def _parameters(one: Operation) -> Iterator[dict[str, Any]]:
    if "{name}" in one.path:
        is_document = one.path.startswith("/v1/index")
        schema = {"type": "string", "pattern": _NAME} if is_document else {"type": "string", "minLength": 1}
        yield {"name": "name", "in": "path", "required": True, "schema": schema}
    for name in one.query:
        yield {"name": name, "in": "query", "required": True, "schema": {"type": "string"}}


def _replies(one: Operation, schemas: dict[Any, Any], *, is_open: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    if one.reply is not None:
        content: dict[str, Any] = {one.kind: {"schema": schemas[one.reply]}}
        if one.stream is not None:
            content[one.stream] = {"schema": {}}  # 3.1 has no words for the events of a stream
        yield one.status, _reply(one.status, content)
    for status, kind in one.others:
        yield status, _reply(status, {_JSON: {"schema": schemas[kind]}})
    shape = ollama.OllamaError if one.path.startswith("/api/") else openai.Error
    guarded = (403,) if is_open else (401, 403)
    for status in sorted({*one.errors, *guarded}):
        yield status, _reply(status, {_JSON: {"schema": schemas[shape]}})


def _reply(status: int, content: dict[str, Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": {"schema": {"type": "string"}, "required": True}}
    if status == 429:
        headers["Retry-After"] = {"schema": {"type": "integer"}, "required": True, "description": "seconds"}
    return {"description": HTTPStatus(status).phrase, "headers": headers, "content": content}
