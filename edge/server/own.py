"""What this daemon adds to the APIs that clients know: search, documents, feedback, sources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edge.server.documents import Documents, Record
from edge.server.errors import HttpError
from edge.server.replies import json_response
from edge.server.requests import audit, body, caller_of, service_of
from edge.server.service import unless_gone
from edge.server.wire import FeedbackRequest, SearchRequest, decode


async def search(request: Request) -> Response:
    """The best chunks for a query, with every score that led to them; no model is asked."""
    asked: SearchRequest = decode(await body(request), SearchRequest)
    service, caller = service_of(request), caller_of(request)
    job = {"query": asked.query, "top_k": asked.top_k, "filter": asked.filter, "namespace": caller.namespace}
    hits = await unless_gone(request, service.ask("search", **job))
    return json_response({"object": "list", "data": hits})


async def source(request: Request) -> Response:
    """The extracted text of a document, in which citations count their characters."""
    service, caller = service_of(request), caller_of(request)
    document = request.query_params.get("document", "")
    found = await service.ask("source", document=document, namespace=caller.namespace)
    if found is None:
        raise HttpError(404, f"there is no document {document[:200]!r} in the index")
    return json_response(found)


async def feedback(request: Request) -> Response:
    """A thumb for an answer, by the `feedback_id` that came with it."""
    asked: FeedbackRequest = decode(await body(request), FeedbackRequest)
    given = {"feedback_id": asked.feedback_id, "thumb": asked.thumb, "correction": asked.correction}
    return json_response(await service_of(request).ask("rate", **given))


# -- documents ----------------------------------------------------------------------------------------------------


async def index_status(request: Request) -> Response:
    """What is in the index, and what is on its way into it."""
    service, namespace = service_of(request), caller_of(request).namespace
    own = _documents(request).all_of(namespace)
    found: dict[str, Any] = await service.ask("status", namespace=namespace)
    return json_response(found | {"own": len(own), "pending": sum(r.status in ("queued", "indexing") for r in own)})


async def list_documents(request: Request) -> Response:
    records = _documents(request).all_of(caller_of(request).namespace)
    return json_response({"object": "list", "data": [_shown(request, record) for record in records]})


async def get_document(request: Request) -> Response:
    return json_response(_shown(request, _found(request)))


async def put_document(request: Request) -> Response:
    """Add or replace a document; the body is its bytes. 202: it is kept, and will be in the index soon."""
    name = request.path_params["name"]
    record = await _documents(request).put(caller_of(request).namespace, name, _pieces(request))
    audit(request, "put", name=name, bytes=record.bytes, sha256=record.sha256)
    return json_response(_shown(request, record), 202)


async def post_document(request: Request) -> Response:
    """The same as a form with the field `file`, as browsers and `curl -F` send it."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HttpError(415, "send the document as a form (`curl -F file=@manual.pdf`), or PUT it under its name")
    async with request.form(max_files=1, max_fields=1) as form:
        file = form.get("file")
        if file is None or isinstance(file, str) or not file.filename:
            raise HttpError(400, "the form has no field `file` with a document")

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await file.read(2**18):
                yield piece

        namespace = caller_of(request).namespace
        record = await _documents(request).put(namespace, file.filename, pieces())
    audit(request, "put", name=record.name, bytes=record.bytes, sha256=record.sha256)
    return json_response(_shown(request, record), 202)


async def delete_document(request: Request) -> Response:
    name = _found(request).name
    record = _documents(request).delete(caller_of(request).namespace, name)
    audit(request, "delete", name=name)
    return json_response(_shown(request, record) if record else {}, 202)


def _documents(request: Request) -> Documents:
    documents: Documents = request.app.state.documents
    return documents


def _found(request: Request) -> Record:
    name = request.path_params["name"]
    record = _documents(request).get(caller_of(request).namespace, name)
    if record is None:
        raise HttpError(404, f"there is no document {name[:200]!r}")
    return record


def _shown(request: Request, record: Record) -> dict[str, Any]:
    """A record with what `/v1/source` and citations call its document."""
    shown: dict[str, Any] = msgspec.to_builtins(record)
    del shown["namespace"]
    return {"object": "document", "document": str(_documents(request).path(record))} | shown


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:
        raise HttpError(499, "the client went away") from None
