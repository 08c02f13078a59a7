"""A report of `dataset_check` for a person: lines for a terminal, or one HTML page with drawings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from edge.html import drawing, escape, whole_page
from optimize.dataset.check import Finding, Report

_STYLE = ".error { color: #a4262c } .warning { color: #8a5a00 } td.wide { text-align: left; max-width: 44rem }"


def lines(report: Report) -> Iterator[str]:
    """Figures, then findings with their first places."""
    for name, value in report.figures.items():
        yield f"{name.replace('_', ' '):<26} {_value(value)}"
    yield ""
    for finding in report.findings:
        yield f"{finding.level:<8} {finding.check}: {finding.message}"
        yield from (f"{'':11}{place}" for place in finding.places)
        if finding.places and finding.count > len(finding.places):
            yield f"{'':11}and {finding.count - len(finding.places)} more"
    if not report.findings:
        yield "nothing found"


def page(title: str, report: Report) -> str:
    """The whole page.

    :raises EdgeError: matplotlib is not installed.
    """
    figures = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}<td>{escape(_value(value))}" for name, value in report.figures.items()
    )
    body = [f"<h1>Training data</h1><p class=note>{escape(title)}</p>", "<h2>Findings</h2>", _findings(report)]
    body.append(f"<h2>Figures</h2><table>{figures}</table>")
    for name, label, limit in (
        ("total_tokens", "tokens of prompt and answer", report.figures.get("context_tokens")),
        ("answer_words", "words of the answer", None),
        ("examples_per_document", "examples of a document", None),
    ):
        picture = drawing(partial(_histogram, values=report.series.get(name), label=label, limit=limit))
        if picture:
            body.append(f"<h2>{label.capitalize()}</h2>{picture}")
    if languages := drawing(lambda figure: _bars(figure, report.figures.get("languages", {}))):
        body.append(f"<h2>Languages</h2>{languages}")
    return whole_page("Training data", body, _STYLE)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) or "-"
    return str(value)


def _findings(report: Report) -> str:
    if not report.findings:
        return "<p class=good>Nothing found.</p>"
    return f"<table><tr><th>level<th>check<th>finding{''.join(map(_row, report.findings))}</table>"


def _row(finding: Finding) -> str:
    places = "".join(f"<br><span class=note>{escape(place)}</span>" for place in finding.places)
    return (
        f"<tr><td class={finding.level}>{finding.level}<td>{escape(finding.check)}"
        f"<td class=wide>{escape(finding.message)}{places}"
    )


def _histogram(figure: Any, values: list[int] | None, label: str, limit: int | None) -> bool:
    if not values:
        return False
    axes = figure.subplots()
    axes.hist(values, bins=min(60, max(values) - min(values) + 1))
    if limit is not None:
        axes.axvline(limit, color="#a4262c", linestyle="--", label=f"context, {limit} tokens")
        axes.legend()
    axes.set(xlabel=label, ylabel="how many")
    return True


def _bars(figure: Any, shares: dict[str, float]) -> bool:
    if not shares:
        return False
    axes = figure.subplots()
    axes.bar(list(shares), list(shares.values()))
    axes.set(ylabel="share of examples", ylim=(0, 1))
    return True
