"""The result for a person: a table for a terminal, and one HTML page with drawings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from edge.cli.common import human_bytes
from edge.html import drawing, escape, whole_page
from optimize.advise.arms import NAMES, TITLES, Name
from optimize.advise.figures import Cell, Column
from optimize.advise.recommend import Reason, minutes
from optimize.advise.run import Result

_STYLE = (
    "td.wide { text-align: left } .advice { background: #eef4ee; padding: .6rem 1rem; font-size: 1.1rem } "
    "th { vertical-align: bottom }"
)

LINES: tuple[tuple[str, str, Callable[[Column], str]], ...] = (
    ("f1", "F1, all questions", lambda c: _interval(c.f1)),
    ("em", "exact match, all questions", lambda c: _interval(c.em)),
    ("answered_f1", "F1, questions with an answer", lambda c: _interval(c.answered_f1)),
    ("grounded", "answers resting on cited spans", lambda c: _interval(c.grounded)),
    ("abstained", "questions not answered", lambda c: _interval(c.abstained)),
    ("abstention_right", "  of them, rightly", lambda c: _interval(c.abstention_right)),
    ("sec_p50", "seconds a question, median", lambda c: f"{c.sec_p50:.2f}"),
    ("sec_p95", "seconds a question, 95th percentile", lambda c: f"{c.sec_p95:.2f}"),
    ("rss_peak_bytes", "peak memory", lambda c: human_bytes(c.rss_peak_bytes)),
    ("build_sec", "to build", lambda c: minutes(c.cost.build_sec)),
    ("ship_bytes", "to ship to a box", lambda c: human_bytes(c.cost.ship_bytes)),
    ("update_sec", "update, a tenth of the documents changed", lambda c: _or_dash(c.cost.update_sec)),
    ("update_bytes", "  to ship again", lambda c: human_bytes(c.cost.update_bytes) if c.cost.update_bytes else "-"),
)
"""Each line of the table: the cell's name, as reasons cite it, its title, and how it is shown."""


def lines(result: Result) -> Iterator[str]:
    """The table and the advice as text."""
    names = [name for name in NAMES if name in result.columns]
    questions = result.columns[names[0]].questions
    yield f"{f'{questions} held-out questions':<42}" + "".join(f"{TITLES[name]:>22}" for name in names)
    for _, title, shown in LINES:
        yield f"{title:<42}" + "".join(f"{shown(result.columns[name]):>22}" for name in names)
    yield ""
    yield result.advice.headline
    yield from (f"- {reason.text}{_cited(reason)}" for reason in result.advice.reasons)
    if result.advice.would_change:
        yield "What would change this:"
        yield from (f"- {text}" for text in result.advice.would_change)


def page(result: Result) -> str:
    """The whole page.

    :raises EdgeError: matplotlib is not installed.
    """
    advice, facts = result.advice, result.facts
    names = [name for name in NAMES if name in result.columns]
    body = [
        "<h1>RAG, fine-tuning, both or neither?</h1>",
        f"<p class=note>{facts['documents']} documents in {facts['chunks']} passages; "
        f"{facts['questions_trained_on']} questions to train on, {result.columns[names[0]].questions} others asked, "
        f"divided by document; recipe {escape(str(facts['recipe']))}. Ranges hold the mean with 95%.</p>",
        f"<p class=advice>{escape(advice.headline)}</p><ul>",
        *(f"<li>{escape(reason.text)}{_links(reason)}" for reason in advice.reasons),
        "</ul>",
    ]
    if advice.would_change:
        body += [
            "<h2>What would change this</h2><ul>",
            *(f"<li>{escape(text)}" for text in advice.would_change),
            "</ul>",
        ]
    body.append(f"<h2>Figures</h2>{_table(result, names)}")
    if picture := drawing(lambda figure: _scores(figure, result, names)):
        body.append(picture)
    return whole_page("RAG, fine-tuning, both or neither?", body, _STYLE)


def _table(result: Result, names: list[Name]) -> str:
    head = "".join(f"<th>{escape(TITLES[name])}" for name in names)
    rows = "".join(
        f"<tr><td class=wide>{escape(title.strip())}"
        + "".join(f'<td id="{name}.{key}">{escape(shown(result.columns[name]))}' for name in names)
        for key, title, shown in LINES
    )
    return f"<table><tr><th>{head}{rows}</table>"


def _scores(figure: Any, result: Result, names: list[Name]) -> bool:
    """F1 against the seconds of a question, with the interval."""
    axes = figure.subplots()
    for name in names:
        column = result.columns[name]
        cell = column.f1
        if cell.value is None or cell.low is None or cell.high is None:
            continue
        reach = [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]  # equal up to rounding
        axes.errorbar([column.sec_p50], [cell.value], yerr=reach, marker="o", capsize=3, label=TITLES[name])
    axes.set(xlabel="seconds a question, median", ylabel="F1", ylim=(0, 1), xlim=(0, None))
    axes.legend()
    return True


def _interval(cell: Cell) -> str:
    if cell.value is None:
        return "-"
    return f"{cell.value:.3f} ({cell.low:.2f}-{cell.high:.2f})" if cell.low is not None else f"{cell.value:.3f}"


def _or_dash(seconds: float | None) -> str:
    return "-" if seconds is None else minutes(seconds)


def _cited(reason: Reason) -> str:
    return f" [{', '.join(reason.cells)}]" if reason.cells else ""


def _links(reason: Reason) -> str:
    cells = ", ".join(f'<a href="#{cell}">{cell}</a>' for cell in reason.cells)
    return f" <span class=note>[{cells}]</span>" if cells else ""
