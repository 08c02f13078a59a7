"""The page: static files of this package. They hold nothing of anybody, so they need no key; the page asks for one."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from edge.server.errors import HttpError

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


async def index(request: Request) -> Response:
    return _reply(request, "index.html")


async def asset(request: Request) -> Response:
    """A script, style or image of the page."""
    return _reply(request, request.path_params["file"])


def _reply(request: Request, name: str) -> Response:
    if name not in _names():
        raise HttpError(404, f"the page has no file {name[:80]!r}")
    content, tag = _file(name)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}  # kept by browsers, asked for by tag: an update shows at once
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(content, headers=headers, media_type=f"{kind}; charset=utf-8")


@cache
def _names() -> frozenset[str]:
    found = (entry.name for entry in files("edge.server").joinpath("page").iterdir())
    return frozenset(name for name in found if name.rpartition(".")[2] in _TYPES)


@cache
def _file(name: str) -> tuple[bytes, str]:
    content = files("edge.server").joinpath("page", name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
