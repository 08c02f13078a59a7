"""The daemon's page in a real browser: Debian's Chromium, headless, against the real daemon and the real model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from _daemon import Daemon

sync_api = pytest.importorskip("playwright.sync_api", reason="the page needs playwright (extra dev)")
expect = sync_api.expect

from _browser import DESK, SLOW_MS, Visit, check_contrast, check_names  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.model,
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt install chromium)"),
]

QUESTION = "How long does a firmware update take?"
PHONE, NARROW = {"width": 390, "height": 844}, {"width": 360, "height": 640}
HOSTILE = b"""# Skarv lighthouse \xf0\x9f\x94\xa6

The lamp of Skarv lighthouse <img src=x onerror="window.hacked=1;alert(1)"> is cleaned <script>window.hacked=2</script>
every 17 days by the keeper.
"""


@pytest.fixture(scope="module")
def daemon(sample_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("page")
    (home / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", home / "index.db")
    (home / "config.yaml").write_text("feedback: {enabled: true}")
    with Daemon(environment={**os.environ, "EDGE_HOME": str(home)}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: artefacts of the run."""
    folder = os.environ.get("EDGE_TEST_ARTIFACTS")
    made = Path(folder) / "page" if folder else tmp_path_factory.mktemp("pictures")
    made.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture
def visit(browser: Any, daemon: Daemon) -> Iterator[Visit]:
    made = Visit(browser, daemon)
    yield made
    made.context.close()
    assert made.complaints == []
    assert [url for url in made.requested if not url.startswith(f"{made.origin}/")] == []


DRAFTS = """() => {
    window.drafts = [];
    const look = () => {
        const text = document.querySelector(".draft")?.textContent;
        if (text && text !== window.drafts.at(-1)) window.drafts.push(text);
    };
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def test_an_answer_and_the_passage_that_it_rests_on(visit: Visit, pictures: Path) -> None:
    page = visit.page
    sent: list[dict[str, Any]] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.url.endswith("/completions") else None)
    page.evaluate(DRAFTS)
    answer = visit.ask(QUESTION)
    expect(answer).to_contain_text("six minutes")
    drafts = page.evaluate("drafts")
    assert len(drafts) > 3  # it was seen while it was written
    assert all(after.startswith(before) for before, after in pairwise(drafts))
    expect(page.locator(".draft")).to_have_count(0)
    marker = answer.get_by_role("button", name=re.compile("^Source 1: user-manual.md"))
    marker.click()
    mark = page.locator("mark")
    expect(mark).to_have_text("The update takes about six minutes.")
    expect(mark).to_be_in_viewport()
    page.screenshot(path=pictures / "source.png")
    page.keyboard.press("Escape")
    expect(page.locator("#source")).to_be_hidden()
    expect(marker).to_be_focused()
    visit.ask("And what happens if the new one does not start?")
    assert sent[1]["messages"][0]["content"] == QUESTION  # earlier turns go along
    assert "[1]" not in sent[1]["messages"][1]["content"]
    unanswered = visit.ask("Who won the football world cup in 1998?")
    expect(unanswered).to_contain_text("Not answered")
    expect(unanswered.locator(".marker")).to_have_count(0)


def test_the_address_that_a_citation_gives_opens_its_document(visit: Visit, daemon: Daemon) -> None:
    hit = daemon.call("POST", "/v1/search", {"query": "firmware update", "top_k": 1})["data"][0]
    visit.page.goto(f"{visit.origin}/#document={hit['document']}")
    expect(visit.page.locator("#source-title")).to_have_text(hit["title"])
    expect(visit.page.locator("#source-text")).to_contain_text("firmware")
    visit.page.goto(f"{visit.origin}/#document=/etc/passwd")
    expect(visit.page.locator("#source-note")).to_contain_text("no longer in the index")
    assert visit.complaints.pop().endswith("404 (Not Found)")  # the browser's own note


def test_what_the_model_writes_is_a_draft_until_it_is_checked(visit: Visit) -> None:
    """Against a stream that says all there is to say: the box's own answers differ from model to model."""
    page = visit.page
    cited = {"marker": 1, "document": "/d/a.md", "name": "a.md", "page": 2, "start": 0, "end": 4, "score": 1.0}
    deltas = [
        {"delta": {"draft": "It is <b>so</b>."}},
        {"delta": {"content": "It is so. [1] It is not. [unsupported] See [7].",
                   "annotations": [cited | {"text": "So.", "sentence": "It is so."}]}},
    ]  # fmt: skip
    events = [{"choices": [delta]} for delta in deltas]
    said = str(deltas[1]["delta"]["content"])
    marks = [
        [said.index(one), said.index(one) + len(one), cited] for one, cited in (("[1]", 0), ("[unsupported]", None))
    ]
    told = {"abstained": False, "unsupported": ["It is not."], "marks": marks, "queued_sec": 2.0}
    events.append({"choices": [{"delta": {}}], "edge": told})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    answer = visit.ask("Is it so?")
    expect(answer.locator(".answer-text")).to_have_text(
        "It is so.1 It is not. (no document supports this sentence) See [7]."
    )
    expect(answer.locator(".doubtful")).to_have_text("It is not.")
    expect(answer).to_contain_text("Partly unsupported")
    expect(answer).to_contain_text("waited 2.0 s")
    expect(answer.locator(".draft")).to_have_count(0)
    expect(answer.get_by_role("button", name="Right")).to_have_count(0)  # no feedback_id: feedback is off
    events[1:] = []
    body = f"data: {json.dumps(events[0])}\n\ndata: {json.dumps({'error': {'message': 'the model ended'}})}\n\n"
    answer = visit.ask("And now?")
    expect(answer.locator(".draft")).to_have_text("It is <b>so</b>.")
    expect(answer.locator(".problem")).to_contain_text("the model ended")


def test_errors_are_told_in_words(browser: Any, daemon: Daemon) -> None:
    visit = Visit(browser, daemon)
    for status, after, text in (
        (429, "7", "busy.*Try again in 7 s"),
        (503, "5", "cannot do this now: no room. Try again in 5 s"),
        (400, "", "^no room"),
    ):
        told = {"status": status, "headers": {"Retry-After": after}, "json": {"error": {"message": "no room"}}}
        visit.page.route("**/v1/chat/completions", lambda route, _, told=told: route.fulfill(**told))
        expect(visit.ask("Hello?").locator(".problem")).to_have_text(re.compile(text))
        visit.page.unroute("**/v1/chat/completions")
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    expect(visit.ask("Hello?").locator(".problem")).to_contain_text("The box cannot be reached")
    visit.page.unroute("**/v1/chat/completions")
    visit.answered().get_by_role("button", name="Ask again").click()
    expect(visit.answered().locator(".answer-text")).not_to_be_empty(timeout=SLOW_MS)
    visit.context.close()


def test_the_model_alone_and_stop(visit: Visit) -> None:
    page = visit.page
    page.get_by_text("Model alone").click()
    page.get_by_label("Your question").fill("Tell me a long story about a lighthouse keeper and her dog.")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .answer-text")).not_to_be_empty(timeout=SLOW_MS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Ask", exact=True).last).to_be_visible()


def test_a_document_goes_in_is_cited_as_text_and_goes_out(visit: Visit, daemon: Daemon, pictures: Path) -> None:
    page = visit.page
    visit.view("Documents")
    expect(page.get_by_text("Nothing has been added yet.")).to_be_visible(timeout=SLOW_MS)
    page.locator("#files").set_input_files([{"name": "Fyret på Skarv.md", "mimeType": "text/plain", "buffer": HOSTILE}])
    row = page.get_by_role("listitem").filter(has_text="Fyret på Skarv.md")
    expect(row).to_contain_text("Ready", timeout=SLOW_MS)
    page.screenshot(path=pictures / "documents.png")
    read = row.get_by_role("button", name="Read Fyret på Skarv.md")
    read.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#source-text")).to_contain_text("every 17 days by the keeper")
    page.keyboard.press("Escape")
    expect(read).to_be_focused()
    visit.view("Ask")
    answer = visit.ask("How often is the lamp of Skarv lighthouse cleaned?")
    answer.get_by_role("button", name=re.compile("^Source .*Fyret på Skarv.md")).first.click()
    shown = page.locator("#source-text")
    expect(shown.locator("mark")).to_contain_text("17 days", timeout=SLOW_MS)
    assert '<img src=x onerror="window.hacked=1;alert(1)">' in shown.inner_text()
    expect(page.locator("#source-note")).to_be_hidden()  # its offsets hold, though a character before takes two units
    cited = page.locator("mark").text_content()
    first = daemon.call("POST", "/v1/search", {"query": "lamp of Skarv lighthouse"})["data"][0]
    source = daemon.call("GET", f"/v1/source?document={quote(first['document'])}")["text"]
    start, end = re.findall(r"\d+", page.locator("#source-where").inner_text().split("characters")[1])
    assert cited == source[int(start) : int(end)]
    assert page.evaluate("window.hacked") is None
    assert page.locator("#app img[onerror], #source img, #source script, .answer script, .answer img").count() == 0
    visit.view("Documents")
    row.get_by_role("button", name="Remove Fyret på Skarv.md").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    row.get_by_role("button", name="Remove Fyret på Skarv.md").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("Nothing has been added yet.")).to_be_visible(timeout=SLOW_MS)
    assert daemon.call("GET", "/v1/index/documents")["data"] == []


def test_what_cannot_be_added_says_why(browser: Any, daemon: Daemon) -> None:
    visit = Visit(browser, daemon)
    visit.view("Documents")
    visit.page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "bild.png"));
            const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.getElementById("drop").dispatchEvent(event);
        }"""
    )
    row = visit.page.get_by_role("listitem").filter(has_text="bild.png")
    expect(row).to_contain_text("no reader for this kind of file")
    row.get_by_role("button", name="Dismiss bild.png").click()
    expect(row).to_have_count(0)
    visit.context.close()


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.page

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
            )
            if focused.startswith(name):
                outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"nobody sees that {name} has the focus"
                return
        raise AssertionError(f"Tab does not lead to {name}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_label("Your question").focus()
    page.keyboard.type("How long does")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("a firmware update take?")
    expect(page.get_by_label("Your question")).to_have_value("How long does\na firmware update take?")
    page.keyboard.press("Enter")
    visit.answered()
    page.locator("main").focus()
    tab_to("Source 1")
    page.keyboard.press("Enter")
    expect(page.locator("mark")).to_be_in_viewport()
    tab_to("Close")
    page.keyboard.press("Enter")
    expect(page.locator(".marker").first).to_be_focused()


def test_thumbs_are_kept_on_the_box(visit: Visit, daemon: Daemon) -> None:
    answer = visit.ask(QUESTION)
    answer.get_by_role("button", name="Right").click()
    expect(answer).to_contain_text("noted on this box")
    answer.get_by_role("button", name="Wrong").click()
    answer.get_by_label("What would have been right?").fill("Six minutes, not more.")
    answer.get_by_role("button", name="Send").click()
    expect(answer.get_by_label("What would have been right?")).to_have_count(0)
    expect(answer.get_by_role("button", name="Wrong")).to_have_attribute("aria-pressed", "true")
    home = Path(f"/proc/{daemon.pid}/environ").read_bytes().split(b"EDGE_HOME=")[1].split(b"\0")[0].decode()
    listed = subprocess.run(
        [sys.executable, "-m", "edge", "feedback", "list", "--json"],
        env={**os.environ, "EDGE_HOME": home}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Six minutes, not more." in listed.stdout


def test_the_box_is_looked_at_only_while_somebody_looks(visit: Visit, pictures: Path) -> None:
    page = visit.page
    visit.ask(QUESTION)
    visit.view("Box")
    ledger = page.get_by_role("list", name="Memory by ledger line")
    expect(ledger.get_by_role("listitem").filter(has_text="embedder").first).to_be_visible()
    expect(page.get_by_role("list", name="Memory by process")).to_contain_text("engine")
    assert page.locator(".bar .dark").first.bounding_box()["width"] > 1
    page.screenshot(path=pictures / "box.png", full_page=True)
    with page.expect_request("**/v1/status", timeout=5000):
        pass
    visit.view("Ask")
    before = sum("/v1/status" in url for url in visit.requested)
    page.wait_for_timeout(2600)
    assert sum("/v1/status" in url for url in visit.requested) == before


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(DESK, "light"), (PHONE, "dark"), (NARROW, "light")],
    ids=["desk-light", "phone-dark", "narrow-light"],
)
def test_looks(browser: Any, daemon: Daemon, pictures: Path, size: dict[str, int], scheme: str) -> None:
    """Names of controls, contrast, and no scrolling to the side; a picture of each view."""
    visit = Visit(browser, daemon, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page, name = visit.page, f"{size['width']}-{scheme}"
    for view in ("Ask", "Documents", "Box"):
        visit.view(view)
        if view == "Ask":
            visit.ask(QUESTION).locator(".marker").first.wait_for()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=pictures / f"{name}-{view.lower()}.png")
        assert visit.is_narrow(), view
        check_names(page)
        check_contrast(page)
    visit.view("Ask")
    page.locator(".marker").first.click()
    mark = page.locator("mark")
    expect(mark).to_be_in_viewport()
    page.screenshot(path=pictures / f"{name}-source.png")
    assert visit.is_narrow()
    check_contrast(page)
    if size["width"] < 860:  # all of the phone
        assert page.locator("#source").bounding_box() == {"x": 0, "y": 0, **size}
    visit.context.close()
    assert visit.complaints == []


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Any, sample_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", tmp_path / "index.db")
    environment = {**os.environ, "EDGE_HOME": str(tmp_path)}
    call = [sys.executable, "-m", "edge", "key", "create", "anna", "--scope", "ask", "--scope", "search", "--json"]
    made = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    with Daemon(environment=environment) as daemon:
        context = browser.new_context(viewport=PHONE)
        page = context.new_page()
        page.goto(f"http://{daemon.host}:{daemon.port}/")
        dialog = page.get_by_role("dialog", name="This box asks for a key")
        dialog.get_by_label("Key").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("not accepted")
        dialog.get_by_label("Key").fill(json.loads(made.stdout)["token"])
        dialog.get_by_role("button", name="Use this key").click()
        expect(page.locator("#model-name")).not_to_have_text("edge")
        page.get_by_role("button", name="Documents", exact=True).click()
        expect(page.locator("#documents-count")).to_contain_text("not allowed: this key may not do that")
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        context.close()
