"""A streamed HTTP request with limits on everything: time, size, and what counts as an answer.

Server-sent events as in the HTML standard, section 9.2, as far as `data:` lines go; that is all that servers in the
field send. A peer is somebody else's program: nothing that it sends is taken for granted.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge.errors import PeerError

_MAX_EVENT_BYTES = 4 * 2**20
_MAX_BODY_BYTES = 16 * 2**20
_EXCERPT = 200
_TROUBLES = (OSError, http.client.HTTPException, ValueError)  # ValueError: a status line or chunk that is none


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer listens. `timeout_sec` is for one answer, and also how long it may be silent."""

    url: str
    timeout_sec: float

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            known = False
        if not known:
            raise PeerError(f"{self.url!r} is no address of a peer: write http://HOST:PORT, or llama.cpp")

    def get(self, path: str) -> Any:
        """The JSON that a path answers with.

        :raises PeerError: it does not answer with 200 and JSON in time.
        """
        return json_of(self._whole("GET", path, None), f"{self.url}{path}")

    def post(self, path: str, body: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        """Send a request and yield each event with its arrival, in seconds since it was sent; ends with the stream.

        :raises PeerError: no connection, a status other than 200, silence, too much time, broken off, not JSON.
        """
        connection = self._connect()
        try:
            deadline = time.monotonic() + self.timeout_sec
            started = time.perf_counter()
            response = self._send(connection, "POST", path, body)
            for line in _lines(response, deadline, self.url):
                arrived = time.perf_counter() - started
                if line.startswith(b"data:"):
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = json_of(data, self.url)
                    if not isinstance(event, dict):
                        raise PeerError(f"{self.url} sent an event that is no object: {_excerpt(data)}")
                    yield arrived, event
        except _TROUBLES as error:
            raise self._explained(error) from error
        finally:
            connection.close()

    @property
    def _prefix(self) -> str:
        return urlsplit(self.url).path.rstrip("/").removesuffix("/v1")

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_sec)
        try:
            connection.connect()
        except OSError as error:
            raise PeerError(
                f"no peer answers at {self.url}: {error.strerror or error}. Start it, or correct the address"
            ) from error
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "*/*"} | ({} if data is None else {"Content-Type": "application/json"})
        connection.request(method, self._prefix + path, data, headers)
        response = connection.getresponse()
        if response.status != 200:
            raise StatusError(response.status, f"{self.url}{path}", response.read(_EXCERPT))
        return response

    def _whole(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        connection = self._connect()
        try:
            deadline = time.monotonic() + self.timeout_sec
            return b"".join(_pieces(self._send(connection, method, path, body), deadline, self.url, _MAX_BODY_BYTES))
        except _TROUBLES as error:
            raise self._explained(error) from error
        finally:
            connection.close()

    def _explained(self, error: Exception) -> PeerError:
        if isinstance(error, TimeoutError):
            return PeerError(f"{self.url} was silent for {self.timeout_sec:g} s. {_SLOW}")
        what = " ".join(str(error).split())[:_EXCERPT] or type(error).__name__
        return PeerError(f"{self.url} broke the connection, or speaks no HTTP: {type(error).__name__}: {what}")


_SLOW = "Give it more time (peer.timeout_sec), or less work (--prompt-tokens, --new-tokens)"


class StatusError(PeerError):
    """The peer answered with a status other than 200."""

    def __init__(self, status: int, where: str, body: bytes) -> None:
        super().__init__(f"{where} answered with HTTP status {status}: {_excerpt(body)}")
        self.status = status


def json_of(data: bytes, where: str) -> Any:
    """Parsed JSON.

    :raises PeerError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise PeerError(f"{where} answered with something that is no JSON: {_excerpt(data)}") from None


def _pieces(response: http.client.HTTPResponse, deadline: float, url: str, limit: int) -> Iterator[bytes]:
    total = 0
    while piece := response.read1(65536):
        total += len(piece)
        if total > limit:
            raise PeerError(f"{url} sent more than {limit} bytes: that is no answer")
        if time.monotonic() > deadline:
            raise PeerError(f"{url} took longer than its time limit. {_SLOW}")
        yield piece


def _lines(response: http.client.HTTPResponse, deadline: float, url: str) -> Iterator[bytes]:
    """The lines of a stream, each as soon as it is there; time is checked at every piece, so drips end too."""
    rest = b""
    for piece in _pieces(response, deadline, url, 64 * _MAX_BODY_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > _MAX_EVENT_BYTES:
            raise PeerError(f"{url} sent an event of more than {_MAX_EVENT_BYTES} bytes: that is no answer")
    yield rest


def _excerpt(data: bytes) -> str:
    text = " ".join(data[:_EXCERPT].decode("utf-8", "replace").split())
    return repr(text) if text else "(nothing)"
