"""The page's files: what they may hold, and how they are served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from edge.server import page
from edge.server.errors import HttpError
from edge.server.guard import needed_scope

FOLDER = Path(page.__file__).with_suffix("")
SCRIPTS = sorted(FOLDER.glob("*.js"))
HTML = (FOLDER / "index.html").read_text()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return PlainTextResponse(str(error), error.status)


@pytest.fixture
def client() -> TestClient:
    routes = [Route("/", page.index), Route("/page/{file}", page.asset)]
    return TestClient(Starlette(routes=routes, exception_handlers={HttpError: _refused}))


def test_every_file_is_served_and_asked_for_again_by_its_tag(client: TestClient) -> None:
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for file in FOLDER.iterdir():
        reply = client.get(f"/page/{file.name}")
        assert reply.content == file.read_bytes()
        assert reply.headers["content-type"] == f"{kinds[file.suffix]}; charset=utf-8"
        again = client.get(f"/page/{file.name}", headers={"If-None-Match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/").text == HTML


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "%2e%2e%2fguard.py", "__init__.py", ".", "page.js/x"])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_only_the_page_needs_no_key() -> None:
    assert needed_scope("/") is needed_scope("/page/page.js") is None
    assert needed_scope("/pages") == needed_scope("/page.js") == "ask"


def test_what_the_page_asks_for_is_there() -> None:
    told = re.findall(r'(?:src|href)="(/[^"]*)"', HTML)
    told += [f"/page/{name}" for file in SCRIPTS for name in re.findall(r'from "\./([^"]+)"', file.read_text())]
    assert {Path(address).name for address in told} <= {file.name for file in FOLDER.iterdir()}
    ids = set(re.findall(r'\bid="([^"]+)"', HTML))
    for file in SCRIPTS:
        assert set(re.findall(r'\$\("([^"]+)"\)', file.read_text())) <= ids, file.name


def test_text_never_becomes_markup_and_nothing_comes_from_elsewhere() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc|\beval\b"
    for file in SCRIPTS:
        assert not re.search(ways, file.read_text()), file.name
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", HTML)  # the policy would refuse them
    for file in FOLDER.iterdir():
        found = re.findall(r"https?://[^\s\"']+", file.read_text())
        assert set(found) <= {"http://www.w3.org/2000/svg"}, file.name
