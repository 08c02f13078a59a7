"""What a route takes from a request, beside its path."""

from __future__ import annotations

from typing import Any

from starlette.requests import ClientDisconnect, Request

from edge.server.errors import HttpError
from edge.server.journal import Journal
from edge.server.service import Caller, Service


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def body(request: Request) -> bytes:
    """The whole body.

    :raises HttpError: it is larger than `server.max_body_bytes` (413), or the client went away.
    """
    most = service_of(request).config.max_body_bytes
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > most:
                raise HttpError(413, f"the request is larger than {most} bytes (server.max_body_bytes)")
    except ClientDisconnect:
        raise HttpError(499, "the client went away") from None
    return bytes(data)


def audit(request: Request, action: str, **what: Any) -> None:
    """A line in the audit log: who changed what."""
    journal: Journal = request.app.state.journal
    caller = caller_of(request)
    journal.audit(action, caller=caller.id, namespace=caller.namespace, request=request.state.request_id, **what)
