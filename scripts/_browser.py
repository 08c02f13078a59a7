"""The daemon's page as the tests visit it, with what every view of it must keep; needs playwright and a browser."""

from __future__ import annotations

import re
from typing import Any

from _daemon import Daemon
from playwright.sync_api import expect

DESK = {"width": 1280, "height": 800}
SLOW_MS = 60_000  # a loaded machine


class Visit:
    """A page of one browser, with everything that it asked for and complained of."""

    def __init__(self, browser: Any, daemon: Daemon, **how: Any) -> None:
        self.origin = f"http://{daemon.host}:{daemon.port}"
        self.context = browser.new_context(**{"viewport": DESK, **how})
        self.page = self.context.new_page()
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.goto(f"{self.origin}/")
        expect(self.page.locator("#model-name")).not_to_have_text("edge")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"a script ran: {dialog.message}")
        dialog.dismiss()

    def ask(self, question: str) -> Any:
        """Ask, and wait for the answer; the element that holds it."""
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")
        return self.answered()

    def answered(self) -> Any:
        answer = self.page.locator(".answer").last
        expect(answer).to_have_attribute("aria-busy", "false", timeout=SLOW_MS)
        return answer

    def view(self, name: str) -> None:
        self.page.get_by_role("navigation").get_by_role("button", name=name).click()

    def is_narrow(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def check_names(page: Any) -> None:
    """Every control has a name that a screen reader says: in the snapshot it stands in quotes behind the role."""
    snapshot = page.locator("body").aria_snapshot()
    roles = r"- (button|link|textbox|radio|combobox|list|navigation|region|dialog|complementary|progressbar)"
    nameless = [line for line in snapshot.splitlines() if re.match(rf"\s*{roles}\b(?! \")", line)]
    assert nameless == []
    assert "- radio" in snapshot or "- heading" in snapshot  # it is a snapshot of the page


CONTRAST = """() => {
    const channels = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const found = channels(getComputedStyle(one).backgroundColor);
            if (found.length === 3 || found[3] === 1) return found;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const one of document.querySelectorAll("body *")) {
        const hasText = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!hasText || !one.checkVisibility() || one.disabled || one.closest(".unseen")) continue;
        const pair = [light(channels(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${one.outerHTML.slice(0, 120)}`);
    }
    return poor;
}"""


def check_contrast(page: Any) -> None:
    """WCAG 2.2, 1.4.3 (AA): text against what is behind it."""
    assert page.evaluate(CONTRAST) == []
