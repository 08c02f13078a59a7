"""One HTTP exchange with a registry: its proxy, redirects, and time limits; and errors as sentences.

Over urllib3, which streams both ways and trusts the certificates of the system. The `oras` package was looked at: it
has no time limits, neither resumes nor verifies what it fetches, and reads what it uploads into memory as a whole.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from edge.deploy.registry.pace import Limit, Watch
from edge.deploy.registry.reference import is_loopback
from edge.deploy.registry.trouble import Trouble
from edge.errors import RegistryError

if TYPE_CHECKING:
    import urllib3

MAX_REDIRECTS = 5
MAX_ERROR_BYTES = 2**14
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_SEC = 120.0
"""A registry that asks to wait longer is not waited for."""


@dataclass(frozen=True)
class Settings:
    """How to talk to a registry."""

    plain_http: bool | None = None  # without TLS; None: only to this machine itself
    rate: int | None = None  # most bytes a second, each way; None: as fast as it goes
    timeout_sec: float = 30.0  # that it may say nothing
    attempts: int = 5  # of which each may fail before it is an error; progress starts the count anew
    first_wait_sec: float = 0.5  # between two of them, doubled each time
    least_rate: float = 1024.0  # bytes a second; a transfer slower than this ...
    window_sec: float = 60.0  # ... for so long has failed


@dataclass(frozen=True)
class Body:
    """What is sent; read anew for each attempt."""

    size: int
    pieces: Callable[[], Iterator[bytes]]
    kind: str = "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """The head of an answer, and its bytes as they come."""

    status: int
    headers: Mapping[str, str]  # names in any case
    url: str
    pieces: Iterator[bytes]


class Http:
    """Connections to a registry and to where it sends us."""

    def __init__(self, registry: str, *, plain: bool, settings: Settings) -> None:
        self.origin = f"{'http' if plain else 'https'}://{registry}"
        self.limit = Limit(settings.rate)
        self._plain, self._settings = plain, settings
        self._managers: dict[str | None, urllib3.PoolManager] = {}

    def close(self) -> None:
        for manager in self._managers.values():
            for pool in map(manager.pools.get, manager.pools.keys()):  # its container cannot be iterated itself
                if pool is not None:
                    pool.close()  # `clear` leaves that to the garbage collector
            manager.clear()

    def is_own(self, url: str) -> bool:
        """Whether a URL is the registry's: nobody else is told who we are."""
        return urlsplit(url)[:2] == urlsplit(self.origin)[:2]

    @contextmanager
    def ask(
        self, method: str, url: str, headers: dict[str, str], what: str, body: Body | None = None
    ) -> Iterator[Answer]:
        """Make a request; GET and HEAD follow redirects, and `Authorization` goes to the registry alone.

        :param what: what is asked for, in words for errors: "the manifest".
        :raises Trouble: it may pass.
        :raises RegistryError: it will not.
        """
        for _ in range(MAX_REDIRECTS + 1):
            mine = headers if self.is_own(url) else {k: v for k, v in headers.items() if k != "Authorization"}
            response = self._send(method, url, mine, what, body)
            location = response.headers.get("Location")
            if method not in ("GET", "HEAD") or response.status not in (301, 302, 303, 307, 308) or not location:
                break
            response.drain_conn()
            response.release_conn()
            url = urljoin(url, location)
        else:
            raise RegistryError(f"{self.origin}: {what}: sent from one address to the next without an end")
        try:
            yield Answer(response.status, response.headers, url, self._pieces(response, what))
        finally:
            response.close()  # what was not read is not waited for
            response.release_conn()

    def _send(
        self, method: str, url: str, headers: dict[str, str], what: str, body: Body | None
    ) -> urllib3.BaseHTTPResponse:
        import urllib3
        from urllib3.exceptions import HTTPError

        if urlsplit(url).scheme != "https" and not self._plain:
            raise RegistryError(
                f"{self.origin}: {what} would go over the network without TLS: {_shown(url)}. Where that is meant, say "
                "--plain-http"
            )
        seconds = self._settings.timeout_sec
        sent = {"User-Agent": "edge-slm", "Accept-Encoding": "identity", **headers}
        if body is not None:
            sent |= {"Content-Length": str(body.size), "Content-Type": body.kind}
        patience = seconds + (body.size / 4e6 if body else 0)  # the registry reads what it got once more
        try:
            return self._manager(url).request(
                method, url, headers=sent, body=None if body is None else self._paced(body),
                timeout=urllib3.Timeout(connect=seconds, read=patience), retries=False, redirect=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
        except HTTPError as error:
            raise self._trouble(error, what) from None

    def _manager(self, url: str) -> urllib3.PoolManager:
        """Through the proxy that the environment names for it, if any."""
        import urllib3

        parts = urlsplit(url)
        host = parts.hostname or ""
        direct = is_loopback(host) or urllib.request.proxy_bypass(host)
        proxy = None if direct else urllib.request.getproxies().get(parts.scheme)
        if proxy not in self._managers:
            self._managers[proxy] = urllib3.PoolManager() if proxy is None else urllib3.ProxyManager(proxy)
        return self._managers[proxy]

    def _paced(self, body: Body) -> Iterator[bytes]:
        step = self.limit.piece_bytes
        for data in body.pieces():
            for start in range(0, len(data), step):
                piece = data[start : start + step]
                yield piece
                self.limit.passed(len(piece))

    def _pieces(self, response: urllib3.BaseHTTPResponse, what: str) -> Iterator[bytes]:
        """The bytes of an answer; whether they are all is for the reader to know."""
        from urllib3.exceptions import HTTPError

        watch = Watch(self._settings.least_rate, self._settings.window_sec, what)
        try:
            while data := response.read1(self.limit.piece_bytes, decode_content=False):
                yield data
                self.limit.passed(len(data))
                watch.passed(len(data))
        except HTTPError as error:
            raise self._trouble(error, what) from None

    def _trouble(self, error: Exception, what: str) -> Trouble | RegistryError:
        from urllib3 import exceptions as kinds

        seconds = self._settings.timeout_sec
        if isinstance(error, kinds.SSLError):
            return RegistryError(
                f"{self.origin}: TLS fails: {_words(error)}. Add the authority that signed the registry's certificate "
                "to the system's, or name its file in SSL_CERT_FILE; a registry without TLS needs --plain-http"
            )
        if isinstance(error, kinds.LocationValueError):
            return RegistryError(f"{self.origin}: {what}: it named an address that is none")
        if isinstance(error, kinds.NameResolutionError):
            return Trouble(f"{what}: its name cannot be resolved")
        if isinstance(error, kinds.NewConnectionError):  # also a ConnectTimeoutError, to those who know no better
            return Trouble(f"{what}: no connection: {_words(error).rpartition('connection: ')[2]}")
        if isinstance(error, kinds.ConnectTimeoutError):
            return Trouble(f"{what}: no connection within {seconds:.0f} s")
        if isinstance(error, kinds.TimeoutError):
            return Trouble(f"{what}: it said nothing for {seconds:.0f} s")
        return Trouble(f"{what}: the connection broke: {_words(error)}")


def refused(answer: Answer, origin: str, what: str, *, source: str | None = None) -> Trouble | RegistryError:
    """The error that an answer stands for.

    :param source: where our credentials come from; None: we have none.
    """
    said = _said(answer)
    if answer.status in _AGAIN:
        wait = _seconds(answer.headers.get("Retry-After"))
        message = f"{what}: it answers {answer.status}{said}"
        if wait is not None and wait > LONGEST_WAIT_SEC:
            return RegistryError(f"{origin}: {message}, and asks to wait {wait:.0f} s. Try again after that")
        return Trouble(message, wait)
    advice = {
        401: f"it does not accept the credentials of {source}: log in again (`docker login`)" if source else
             "it wants to know who you are: log in (`docker login`, `podman login`), or set EDGE_REGISTRY_USER and "
             "EDGE_REGISTRY_PASSWORD",
        403: "it does not allow that" + (f" to the user of {source}" if source else ", to nobody in particular"),
        404: "there is no such thing; see to name and tag",
    }.get(answer.status, f"it answers {answer.status}")  # fmt: skip
    return RegistryError(f"{origin}: {what}: {advice}{said}")


def _said(answer: Answer) -> str:
    """What the registry itself says of it, one line, nothing that a terminal would obey."""
    try:
        data = take(answer.pieces, MAX_ERROR_BYTES)
        first = json.loads(data or b"")["errors"][0]
        text = str(first.get("message") or first["code"])
    except (Trouble, RegistryError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""
    shown = "".join(char if char.isprintable() else " " for char in text)[:200]
    return f" ({shown})" if shown else ""


def take(pieces: Iterator[bytes], limit: int) -> bytes | None:
    """All of a small answer; None: it is larger than `limit`."""
    found = bytearray()
    for data in pieces:
        found += data
        if len(found) > limit:
            return None
    return bytes(found)


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


def _words(error: Exception) -> str:
    text = str(error.args[-1] if error.args else error)
    return " ".join(text.split())[:200]
