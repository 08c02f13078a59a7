"""Who may send what: hosts, origins, keys and sizes, checked before a route sees the request (ASGI middleware).

A browser on this machine can be made to send requests here by any page that it shows. So the Host header must name this
machine (DNS rebinding gives another name), and an Origin, where there is one, must be this daemon's own.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import KeysError
from edge.server.errors import HttpError, ollama_shape, openai_shape
from edge.server.keys import Key, Keys
from edge.server.keys import Scope as KeyScope
from edge.server.replies import json_response
from edge.server.service import Caller

NAMESPACE = "default"
"""Of requests without a key."""
_OPEN = ("/", "/healthz", "/readyz")
"""Paths that hold nothing of anybody, as do the files of the page, which asks for a key itself."""
_SCOPES: tuple[tuple[str, KeyScope], ...] = (
    ("/v1/index", "ingest"),
    ("/v1/search", "search"),
    ("/v1/rerank", "search"),
    ("/v1/embeddings", "search"),
    ("/v1/source", "search"),
    ("/api/embed", "search"),
    ("/api/embeddings", "search"),
    ("/metrics", "admin"),
    ("/v1/status", "ask"),
)
"""What a path needs, by its beginning; any other needs `ask`."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the guard goes by.

    :ivar hosts: names that a Host header may give, beside localhost and plain addresses.
    :ivar needs_key: also where no key was ever made.
    """

    hosts: frozenset[str]
    needs_key: bool


class Guard:
    """ASGI middleware; puts a `Caller` on the request."""

    def __init__(self, app: ASGIApp, keys: Keys, rules: Rules) -> None:
        self._app, self._keys, self._rules = app, keys, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        id = uuid.uuid4().hex

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(scope=message)
                marked["X-Request-Id"] = id
                for name, value in _HEADERS.items():
                    marked[name] = value
            await send(message)

        try:
            self._check_host(headers)
            caller = self._caller(headers, path, _address(scope))
        except HttpError as error:
            shape = ollama_shape if path.startswith("/api/") else openai_shape
            await json_response(shape(error), error.status, error.headers)(scope, receive, send_marked)
            return
        scope.setdefault("state", {}).update(caller=dataclasses.replace(caller, request=id), request_id=id)
        await self._app(scope, receive, send_marked)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not _is_own(_name_of(host), self._rules.hosts):
            raise HttpError(
                403,
                f"the Host header names {host!r}, which is not this machine: use localhost or an address, or add the "
                "name to server.allowed_hosts",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise HttpError(
                403, f"requests from the page {origin!r} are not answered: only from this daemon's own", "origin"
            )
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise HttpError(403, "requests from pages of other sites are not answered", "origin")

    def _caller(self, headers: Headers, path: str, address: str) -> Caller:
        if _is_open(path):
            return Caller(address, NAMESPACE)
        token = _token(headers)
        key = self._found(token)
        if key is None:
            return Caller(address, NAMESPACE)
        needed = needed_scope(path)
        if needed is not None and not key.may(needed):
            raise HttpError(403, f"this key may not do that: it needs the scope {needed} (`edge key create`)", "scope")
        return Caller(key.id, key.namespace)

    def _found(self, token: str | None) -> Key | None:
        """The caller's key; None where none is needed."""
        try:
            if not self._rules.needs_key and not self._keys.are_used:
                return None  # whatever clients send that must send something
            key = self._keys.find(token or "")
        except KeysError as error:
            raise HttpError(503, str(error), "keys") from None
        if key is None:
            what = "is not known here, or was revoked" if token else "is missing"
            raise HttpError(
                401, f"the key {what}: send `Authorization: Bearer KEY`, see `edge key create`", "invalid_api_key",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return key


def needed_scope(path: str) -> KeyScope | None:
    """What a key must be for to send a path; None where none is needed."""
    if _is_open(path):
        return None
    return next((scope for start, scope in _SCOPES if _is_below(path, start)), "ask")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_own(name: str, hosts: Iterable[str]) -> bool:
    if name.lower() in ("localhost", *hosts):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # a page cannot make a browser send an address for a name


def _is_open(path: str) -> bool:
    return path in _OPEN or _is_below(path, "/page")


def _is_below(path: str, start: str) -> bool:
    return path == start or path.startswith(f"{start}/")


def _token(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def _address(scope: dict[str, Any] | Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"
