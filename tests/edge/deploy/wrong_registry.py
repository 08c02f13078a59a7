"""A registry in memory that answers as the specification has it, until a test tells it to answer wrongly."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PATH = re.compile(r"/v2/(.+)/(manifests|blobs)/(uploads/[0-9]*|[^/]+)")


@dataclass
class Fault:
    """What happens instead of an answer to requests whose "METHOD /path" the pattern is found in."""

    pattern: str
    act: Callable[[Handler], None]
    times: int
    seen: int = 0


@dataclass
class WrongRegistry:
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository -> digest -> bytes
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(
        default_factory=dict
    )  # (repository, tag) -> bytes, type
    log: list[str] = field(default_factory=list)  # "METHOD /path"
    headers: list[dict[str, str]] = field(default_factory=list)  # of the same requests
    faults: list[Fault] = field(default_factory=list)
    has_ranges: bool = True
    authorization: str | None = None  # that a request must have
    challenge: str = 'Basic realm="shop"'
    host: str = ""

    def wrong(self, pattern: str, act: Callable[[Handler], None], times: int = 10**6) -> None:
        self.faults.append(Fault(pattern, act, times))

    def asked(self, pattern: str) -> int:
        """How many requests there were of this kind."""
        return sum(re.search(pattern, line) is not None for line in self.log)

    def put(self, name: str, tag: str, data: bytes, kind: str = MANIFEST) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.manifests[name, tag] = self.manifests[name, digest] = data, kind
        return digest


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0  # a connection that the client forgot ends here, and the test is slow
    registry: WrongRegistry

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def error(self, status: int, message: str = "made up", **headers: str) -> None:
        self.answer(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode(), **headers)

    def handle_any(self) -> None:
        registry, line = self.registry, f"{self.command} {self.path}"
        registry.log.append(line)
        registry.headers.append(dict(self.headers))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for fault in registry.faults:
            if re.search(fault.pattern, line) and fault.seen < fault.times:
                fault.seen += 1
                return fault.act(self)
        if registry.authorization is not None and self.headers.get("Authorization") != registry.authorization:
            return self.error(401, "who are you?", WWW_Authenticate=registry.challenge)
        return self.good()

    do_GET = do_HEAD = do_PUT = do_POST = handle_any

    def good(self) -> None:
        """As it should be."""
        parts = urlsplit(self.path)
        match = _PATH.fullmatch(parts.path)
        if match is None:
            return self.error(404)
        name, kind, what = match.groups()
        if kind == "manifests":
            return self.manifest(name, what)
        if what.startswith("uploads/"):
            return self.upload(name, parse_qs(parts.query))
        return self.blob(self.registry.blobs.get(name, {}).get(what))

    def manifest(self, name: str, what: str) -> None:
        if self.command == "PUT":
            digest = self.registry.put(name, what, self.body, self.headers["Content-Type"])
            return self.answer(201, Docker_Content_Digest=digest)
        if (name, what) not in self.registry.manifests:
            return self.error(404, "manifest unknown")
        data, kind = self.registry.manifests[name, what]
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        return self.answer(200, data, Content_Type=kind, Docker_Content_Digest=digest)

    def upload(self, name: str, query: dict[str, list[str]]) -> None:
        mine = self.registry.blobs.setdefault(name, {})
        if self.command == "POST":
            mounted = self.registry.blobs.get(query.get("from", [""])[0], {}).get(query.get("mount", [""])[0])
            if mounted is not None:
                mine[query["mount"][0]] = mounted
                return self.answer(201)
            return self.answer(202, Location=f"/v2/{name}/blobs/uploads/1?state=x")
        digest = "sha256:" + hashlib.sha256(self.body).hexdigest()
        if query["digest"] != [digest]:
            return self.error(400, "digest invalid")
        mine[digest] = self.body
        return self.answer(201)

    def blob(self, data: bytes | None) -> None:
        if data is None:
            return self.error(404, "blob unknown")
        match = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        if match is None or not self.registry.has_ranges:
            return self.answer(200, data)
        start = int(match[1])
        return self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")


def cut_short(after: int) -> Callable[[Handler], None]:
    """Promise all of it, send so many bytes, and hang up."""

    def act(handler: Handler) -> None:
        whole = handler.registry.blobs[_PATH.fullmatch(handler.path)[1]][handler.path.rpartition("/")[2]]  # type: ignore[index]
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(whole) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        handler.end_headers()
        handler.wfile.write(whole[start : start + after])
        handler.close_connection = True

    return act


def says(status: int, data: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, data, **headers)


def refuses(status: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.error(status, **headers)


@contextmanager
def running() -> Iterator[WrongRegistry]:
    """On a port of its own of this machine."""
    registry = WrongRegistry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Handler,), {"registry": registry}))
    server.daemon_threads = False  # they are waited for: no thread outlives its test
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
