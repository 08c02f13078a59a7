"""Who gets past the guard."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from edge.server.guard import Guard, Rules, is_loopback
from edge.server.keys import Keys
from edge.server.requests import caller_of


async def seen(request: Request) -> JSONResponse:
    caller = caller_of(request)
    return JSONResponse({"caller": caller.id, "namespace": caller.namespace})


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.open(tmp_path / "keys.json")


def client(keys: Keys, *, needs_key: bool = False, host: str = "localhost") -> TestClient:
    guard = Middleware(Guard, keys=keys, rules=Rules(frozenset({"box.lan"}), needs_key))
    app = Starlette(routes=[Route("/{path:path}", seen, methods=["GET", "POST"])], middleware=[guard])
    return TestClient(app, base_url=f"http://{host}:8642")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "192.168.1.7", "box.lan", "LOCALHOST"])
def test_hosts_that_name_this_machine(keys: Keys, host: str) -> None:
    assert client(keys).get("/v1/models", headers={"host": f"{host}:8642"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@b", "..."])
def test_other_names_are_a_rebound_dns(keys: Keys, host: str) -> None:
    reply = client(keys).get("/v1/models", headers={"host": host})
    assert reply.status_code == 403
    assert "allowed_hosts" in reply.json()["error"]["message"]


def test_pages_of_other_origins_are_refused(keys: Keys) -> None:
    here = client(keys)
    assert here.get("/v1/models", headers={"origin": "http://localhost:8642"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://localhost:1", "https://evil.example:8642"):
        assert here.get("/v1/models", headers={"origin": origin}).status_code == 403, origin
    assert (
        here.get("/v1/models", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    )


def test_without_keys_this_machine_may_do_all(keys: Keys) -> None:
    reply = client(keys).get("/v1/index/documents", headers={"authorization": "Bearer whatever"})
    assert reply.json() == {"caller": "testclient", "namespace": "default"}


def test_with_keys_each_request_needs_one_with_the_scope(keys: Keys) -> None:
    key, token = keys.create("laptop", ["search"], "team")
    here = client(keys)
    assert here.get("/v1/search").status_code == 401
    assert here.get("/v1/search", headers={"authorization": "Bearer nonsense"}).status_code == 401
    mine = {"authorization": f"Bearer {token}"}
    assert here.get("/v1/search", headers=mine).json() == {"caller": key.id, "namespace": "team"}
    for path, scope in (("/v1/chat/completions", "ask"), ("/v1/index/documents", "ingest"), ("/metrics", "admin")):
        reply = here.get(path, headers=mine)
        assert reply.status_code == 403, path
        assert scope in reply.json()["error"]["message"]
    assert here.get("/healthz").status_code == 200
    keys.revoke("laptop")
    assert here.get("/v1/search", headers=mine).status_code == 401  # without a restart, and not "no keys: all may"


def test_a_damaged_file_of_keys_lets_nobody_in(keys: Keys) -> None:
    keys.create("laptop", ["admin"])
    keys.path.write_text("{")
    assert client(keys).get("/v1/models").status_code == 503


def test_a_path_that_only_begins_like_another_is_another(keys: Keys) -> None:
    _, token = keys.create("laptop", ["ask"])
    mine = {"authorization": f"Bearer {token}"}
    assert client(keys).get("/v1/indexer", headers=mine).status_code == 200
    assert client(keys).get("/v1/index", headers=mine).status_code == 403


def test_every_reply_is_marked(keys: Keys) -> None:
    here = client(keys)
    for reply in (here.get("/"), here.get("/", headers={"host": "evil.example"})):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert len(reply.headers["x-request-id"]) == 32
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("host", "is_safe"),
    [
        *((host, True) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.0.1", "box.lan")),
    ],
)
def test_loopback(host: str, is_safe: bool) -> None:
    assert is_loopback(host) is is_safe
