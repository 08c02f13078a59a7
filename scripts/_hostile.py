"""Requests that break HTTP, JSON or sense, made from a seed."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator

PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/search", "/v1/models", "/v1/index/documents",
    "/v1/index/documents/a.md", "/v1/feedback", "/v1/source", "/v1/rerank", "/v1/responses", "/api/chat",
    "/api/generate", "/api/embed", "/api/show", "/healthz", "/metrics", "/v1/status", "/", "/nothing",
)  # fmt: skip
REPLY_SEC = 15.0

Make = Callable[[random.Random], bytes]


def hostile_requests(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many requests, each with the name of its kind."""
    rng = random.Random(seed)
    kinds: dict[str, Make] = {
        "noise": lambda rng: rng.randbytes(rng.randrange(1, 300)),
        "half": _half,
        "huge header": lambda rng: _request(rng, headers=[("X-A", "a" * rng.choice((8_000, 70_000, 200_000)))]),
        "many headers": lambda rng: _request(rng, headers=[(f"X-{i}", "a") for i in range(rng.choice((100, 2000)))]),
        "bad length": lambda rng: _request(rng, b"{}", [("Content-Length", rng.choice(("-1", "abc", "1e9", "99 99")))]),
        "two lengths": lambda rng: _request(rng, b"{}", [("Content-Length", "2"), ("Content-Length", "3")]),
        "bad chunks": _chunks,
        "bad utf-8": lambda rng: _request(rng, b'{"model": "edge", "messages": "' + rng.randbytes(30) + b'"}'),
        "deep json": lambda rng: _request(rng, b"[" * rng.choice((500, 5000, 100_000))),
        "deep object": lambda rng: _request(rng, b'{"messages":' * 3000 + b"1" + b"}" * 3000),
        "wrong types": lambda rng: _request(rng, json.dumps(_nonsense(rng, 0)).encode()),
        "wrong values": _wrong_values,
        "long path": lambda rng: _request(rng, path="/" + "a" * rng.choice((1000, 30_000, 90_000))),
        "odd path": lambda rng: _request(
            rng, path=rng.choice(("/%00", "/..%2f..%2fetc/passwd", "/%ff%fe", "//", "/?a=%zz"))
        ),
        "odd method": lambda rng: _request(rng, method=rng.choice(("TRACE", "CONNECT", "PATCH", "A" * 500, "get"))),
        "odd host": lambda rng: _request(
            rng, host=rng.choice(("", "a b", "evil.example", "[::", "\xff", "localhost:99999"))
        ),
        "upgrade": lambda rng: _request(rng, headers=[("Connection", "Upgrade"), ("Upgrade", "websocket")]),
        "http/0.9": lambda _: b"GET /healthz\r\n\r\n",
        "http/2": lambda rng: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(20),
        "multipart": _multipart,
    }
    names = list(kinds)
    for number in range(count):
        name = names[number % len(names)]
        yield name, kinds[name](rng)


def send_raw(host: str, port: int, raw: bytes) -> str:
    """Send bytes and say nothing more; returns the reply's status, or how it ended."""
    try:
        with socket.create_connection((host, port), REPLY_SEC) as one:
            try:
                one.sendall(raw)
                one.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it was refused before it was all sent: the reply says why
            data = b""
            while b"\r\n" not in data and (piece := one.recv(4096)):
                data += piece
    except TimeoutError:
        return "no reply"
    except OSError:
        return "closed"
    line = data.split(b"\r\n", 1)[0].split()
    return line[1].decode("latin-1") if len(line) > 1 else "closed"


def slow_loris(host: str, port: int, connections: int) -> float:
    """Hold connections with a header that never ends; the longest that one was kept, in seconds (at most 30)."""
    started = time.monotonic()
    held = [socket.create_connection((host, port), 5) for _ in range(connections)]
    for one in held:
        one.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\n")
    longest = 0.0
    while held and time.monotonic() - started < 30:
        time.sleep(0.5)
        for one in tuple(held):
            try:
                one.sendall(b"X-A: b\r\n")
                one.setblocking(False)
                if one.recv(1) == b"":
                    raise OSError
            except BlockingIOError:
                one.setblocking(True)
                continue
            except OSError:
                held.remove(one)
                one.close()
                longest = max(longest, time.monotonic() - started)
    for one in held:
        one.close()
        longest = 30.0
    return round(longest, 1)


def _request(
    rng: random.Random,
    body: bytes = b"",
    headers: list[tuple[str, str]] | None = None,
    *,
    method: str = "",
    path: str = "",
    host: str = "localhost",
) -> bytes:
    method = method or ("POST" if body else rng.choice(("GET", "POST", "PUT", "DELETE")))
    sent = [("Host", host), *(headers or [])]
    if body and not any(name in ("Content-Length", "Transfer-Encoding") for name, _ in sent):
        sent.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in sent)
    return f"{method} {path or rng.choice(PATHS)} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def _half(rng: random.Random) -> bytes:
    whole = _request(rng, b'{"model": "edge", "messages": []}')
    return whole[: rng.randrange(1, len(whole))]


def _chunks(rng: random.Random) -> bytes:
    size = rng.choice((b"zz", b"-5", b"ffffffffffffffffff", b"5"))
    return _request(rng, size + b"\r\nabc\r\n", [("Transfer-Encoding", rng.choice(("chunked", "gzip, chunked", "x")))])


def _multipart(rng: random.Random) -> bytes:
    body = rng.choice(
        (b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=file; filename=../../x.md\r\n\r\na\r\n--x--", b"\0")
    )
    kind = rng.choice(
        ("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 300)
    )
    return _request(rng, body, [("Content-Type", kind)], path="/v1/index/documents", method="POST")


def _wrong_values(rng: random.Random) -> bytes:
    asked: dict[str, object] = {"model": "edge", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    asked[rng.choice((*asked, "temperature", "seed", "stop", "n", "rag", "tools", "response_format", "logprobs"))] = (
        rng.choice((None, -1, 1e308, 2**70, "", [], {}, "\ud800", [None], {"index": "../x"}, "a" * 5000, True))
    )
    return _request(
        rng, json.dumps(asked).encode(), path=rng.choice(("/v1/chat/completions", "/api/chat", "/v1/completions"))
    )


def _nonsense(rng: random.Random, depth: int) -> object:
    if depth > 3 or rng.random() < 0.4:
        return rng.choice((None, True, 0, -1, 1.5, 2**80, "", "edge", "\ud800", "a" * 300))
    if rng.random() < 0.5:
        return [_nonsense(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = ("model", "messages", "role", "content", "stream", "input", "query", "prompt", "filter", "", "x")
    return {rng.choice(names): _nonsense(rng, depth + 1) for _ in range(rng.randrange(4))}
