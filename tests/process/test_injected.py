"""Documents that carry instructions, against a real daemon: what they cannot do, whatever the model makes of them.

How often the model follows them: scripts/measure_injections.py, and the table in docs/serve.md.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from _daemon import Daemon
from _injected import Injected, injected

pytestmark = [pytest.mark.model, pytest.mark.process]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CORPUS = list(injected(5, ("inside",)))
ASKED = ("chat tokens", "citation", "annotations")


@pytest.fixture(scope="module")
def documents(shared_daemon: Daemon) -> dict[str, str]:
    """What `/v1/source` calls each document of the corpus, by its kind."""
    for one in CORPUS:
        shared_daemon.call("PUT", f"/v1/index/documents/{quote(one.name)}", one.text.encode())
    until = time.monotonic() + 60
    while {record["status"] for record in listed(shared_daemon)} != {"ready"}:
        assert time.monotonic() < until, listed(shared_daemon)
        time.sleep(0.1)
    found = {record["name"]: record["document"] for record in listed(shared_daemon)}
    return {one.kind: found[one.name] for one in CORPUS}


def listed(daemon: Daemon) -> list[dict[str, Any]]:
    return list(daemon.call("GET", "/v1/index/documents")["data"])


@pytest.mark.parametrize("one", [one for one in CORPUS if one.kind in ASKED], ids=lambda one: one.kind)
def test_what_is_cited_stands_in_a_document(shared_daemon: Daemon, documents: dict[str, str], one: Injected) -> None:
    asked = {"model": "edge+rag", "messages": [{"role": "user", "content": one.question}]}
    reply = shared_daemon.call("POST", "/v1/chat/completions", asked)
    message, told = reply["choices"][0]["message"], reply["edge"]
    assert not told["abstained"]
    assert "tool_calls" not in message
    for place, cited in enumerate(message["annotations"]):
        source = shared_daemon.call("GET", f"/v1/source?document={quote(cited['document'])}")
        assert source["text"][cited["start"] : cited["end"]] == cited["text"]
        at = cited["url_citation"]
        assert [at["start_index"], at["end_index"], place] in told["marks"]
        assert message["content"][at["start_index"] : at["end_index"]] == f"[{cited['marker']}]"
    marked = {message["content"][start:end] for start, end, _ in told["marks"]}
    assert marked <= {"[unsupported]", *(f"[{cited['marker']}]" for cited in message["annotations"])}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt install chromium)")
def test_the_page_shows_it_as_text(shared_daemon: Daemon, documents: dict[str, str]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page needs playwright (extra dev)")
    from _browser import Visit

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        visit = Visit(browser, shared_daemon)
        page = visit.page
        shown = page.locator("#source-text")
        for one in CORPUS:
            page.goto(f"{visit.origin}/#document={quote(documents[one.kind])}")
            sync_api.expect(page.locator("#source-where")).to_contain_text(one.name)
            source = shared_daemon.call("GET", f"/v1/source?document={quote(documents[one.kind])}")["text"]
            assert shown.text_content() == source
            assert page.evaluate("[...document.querySelectorAll('#source-text *')].every((one) => one.matches('span'))")
        answer = visit.ask(next(one.question for one in CORPUS if one.kind == "citation"))
        markers = answer.locator(".marker").all_text_contents()
        sources = answer.get_by_role("list", name="Sources").get_by_role("listitem").count()
        assert all(re.fullmatch(r"\d", marker) for marker in markers)
        assert 0 < len(markers) <= sources + 1  # a sentence, and perhaps another on the same span: not the document's
        assert answer.locator("script, img, iframe, a").count() == 0
        assert page.evaluate("window.hacked") is None
        assert visit.complaints == []
        assert [url for url in visit.requested if not url.startswith(f"{visit.origin}/")] == []
        browser.close()
