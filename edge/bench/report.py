"""Results as one HTML page that needs nothing else: tables, and drawings by matplotlib (extra `bench`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.bench.figures import higher_is_better
from edge.bench.result import Result, SuiteResult
from edge.errors import ResultError
from edge.html import drawing, escape, whole_page


@dataclass(frozen=True, slots=True)
class Line:
    """One side of one result: what a legend calls it, and its suites."""

    label: str
    suites: dict[str, SuiteResult]


def page(results: Sequence[tuple[str, Result]]) -> str:
    """The whole page.

    :param results: what each file is called, and its content.
    :raises EdgeError: matplotlib is not installed.
    :raises ResultError: a file holds something that cannot be drawn.
    """
    lines = [line for name, result in results for line in _lines(name, result, len(results) > 1)]
    body = [f"<h1>edge bench</h1><p class=note>{escape(', '.join(name for name, _ in results))}</p>"]
    try:
        for title, draw, absent in _DRAWINGS:
            picture = drawing(lambda figure, draw=draw: draw(figure, lines))  # type: ignore[misc]
            body.append(f"<h2>{title}</h2>" + (picture or f"<p class=note>No data: {absent}.</p>"))
        for name, result in results:
            body.append(f"<h2>{escape(name)}</h2>{_notes(result)}{_metrics(result)}{_environment(result)}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(
            f"a result holds something that cannot be drawn: {error!r}. Run `edge bench` again"
        ) from error
    return whole_page("edge bench", body)


def _lines(name: str, result: Result, several: bool) -> list[Line]:
    prefix = f"{name}: " if several else ""
    found = [Line(f"{prefix}edge", result.suites)]
    return found + [Line(f"{prefix}{peer.name}", peer.suites) for peer in result.peers]


# Drawings: each gets an empty figure and returns whether there was anything to draw.


def _latency(figure: Any, lines: Sequence[Line]) -> bool:
    """Distributions as cumulative shares: nothing is hidden by the width of a bin."""
    left, right = figure.subplots(1, 2)
    drawn = False
    for line in lines:
        samples = _samples(line, "latency")
        if not samples:
            continue
        first = samples[0]["prompt_tokens_wanted"]
        some = [sample for sample in samples if sample["prompt_tokens_wanted"] == first]
        _cumulative(left, [1000 * sample["ttft_sec"] for sample in some], line.label)
        _cumulative(right, [1000 * gap for sample in some for gap in sample["inter_token_sec"]], line.label)
        drawn = True
    for axes, title in ((left, "time to first token"), (right, "between tokens")):
        axes.set(xlabel=f"{title}, ms", ylabel="share of samples", ylim=(0, 1))
    if drawn:
        right.legend()
    return drawn


def _stages(figure: Any, lines: Sequence[Line]) -> bool:
    axes = figure.subplots()
    rows = [line for line in lines if "rag" in line.suites and line.suites["rag"].series.get("stages")]
    starts = [0.0] * len(rows)
    stages = [stage["stage"] for stage in rows[0].suites["rag"].series["stages"]] if rows else []
    for stage in stages:
        if stage in ("embed", "end_to_end"):  # a part of retrieving; the sum
            continue
        values = [_stage(line, stage) for line in rows]
        axes.barh([line.label for line in rows], values, left=starts, label=stage)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    axes.set(xlabel="seconds, medians")
    if rows:
        axes.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return bool(rows)


def _stage(line: Line, name: str) -> float:
    found = [stage["sec"] for stage in line.suites["rag"].series["stages"] if stage["stage"] == name]
    return float(found[0] or 0.0) if found else 0.0


def _memory(figure: Any, lines: Sequence[Line]) -> bool:
    left, right = figure.subplots(1, 2)
    drawn = False
    for axes, suite, title in ((left, "latency", "bare generation"), (right, "memory", "answering about documents")):
        for line in lines:
            course = line.suites[suite].series.get("memory_over_time") if suite in line.suites else None
            if course:
                seconds = [point["sec"] for point in course]
                (drawing,) = axes.plot(seconds, [point["rss_bytes"] / 2**20 for point in course], label=line.label)
                private = [point["private_bytes"] / 2**20 for point in course]
                axes.plot(seconds, private, linestyle=":", color=drawing.get_color())
                drawn = True
        axes.set(title=title, xlabel="seconds", ylabel="MiB: resident (dotted: private)", ylim=(0, None))
        if axes.lines:
            axes.legend()
    return drawn


def _throughput(figure: Any, lines: Sequence[Line]) -> bool:
    left, right = figure.subplots(1, 2)
    drawn = False
    for line in lines:
        rows = line.suites["latency"].series.get("by_prompt_tokens") if "latency" in line.suites else None
        if rows:
            lengths = [row["prompt_tokens"] for row in rows]
            for axes, metric in ((left, "prefill_tok_per_sec_p50"), (right, "decode_tok_per_sec_p50")):
                axes.plot(lengths, [_or_gap(row[metric]) for row in rows], marker="o", label=line.label)
            drawn = True
    for axes, title in ((left, "prefill"), (right, "decode")):
        axes.set(xlabel="prompt, tokens", ylabel=f"{title}, tokens/s", ylim=(0, None))
    if drawn:
        left.legend()
    return drawn


def _index(figure: Any, lines: Sequence[Line]) -> bool:
    left, right = figure.subplots(1, 2)
    drawn = False
    for line in lines:
        rows = line.suites["retrieval"].series.get("by_index_chunks") if "retrieval" in line.suites else None
        if rows:
            sizes = [row["index_chunks"] for row in rows]
            for name in ("dense", "exact", "search"):
                milliseconds = [1000 * _or_gap(row[f"{name}_sec_p50"]) for row in rows]
                left.plot(sizes, milliseconds, marker="o", label=f"{line.label}, {name}")
            recall = next(name for name in rows[0] if name.startswith("recall"))
            right.plot(sizes, [_or_gap(row[recall]) for row in rows], marker="o", label=f"{line.label}, {recall}")
            drawn = True
    left.set(xscale="log", yscale="log", xlabel="chunks in the index", ylabel="ms, medians")
    right.set(xscale="log", xlabel="chunks in the index", ylim=(0, 1.05))
    if drawn:
        left.legend()
        right.legend()
    return drawn


_DRAWINGS: tuple[tuple[str, Callable[[Any, Sequence[Line]], bool], str], ...] = (
    ("Latency", _latency, "the suite latency was not run"),
    ("Time per stage of a question", _stages, "the suite rag was not run"),
    ("Memory over time", _memory, "neither latency nor memory was run"),
    ("Throughput by length of the prompt", _throughput, "the suite latency was not run"),
    ("Cost by size of the index", _index, "the suite retrieval was not run"),
)


def _cumulative(axes: Any, samples: Sequence[float], label: str) -> None:
    ordered = sorted(samples)
    if ordered:
        axes.step(ordered, [(at + 1) / len(ordered) for at in range(len(ordered))], where="post", label=label)


def _samples(line: Line, suite: str) -> list[dict[str, Any]]:
    """The timings of single answers; llama-bench has none, only rates."""
    found = line.suites[suite].samples.get("generation", []) if suite in line.suites else []
    return [sample for sample in found if "ttft_sec" in sample]


def _or_gap(value: float | None) -> float:
    return math.nan if value is None else float(value)


# Tables


def _notes(result: Result) -> str:
    found = [] if result.complete else ["This run is not complete.", *result.errors]
    return "".join(f"<p class=bad>{escape(note)}</p>" for note in found)


def _metrics(result: Result) -> str:
    """Ours, and every peer's ratio, marked by which way is better."""
    peers = [peer for peer in result.peers if peer.ratios]
    head = "".join(f"<th>÷ {escape(peer.name)}" for peer in peers)
    rows = []
    for suite in result.suites.values():
        for metric, value in suite.metrics.items():
            cells = "".join(_ratio(metric, peer.ratios.get(metric)) for peer in peers)
            shown = _number(value) if value is not None else escape(suite.reasons.get(metric, "-"))
            rows.append(f"<tr><td>{escape(metric)}<td>{shown}{cells}")
    return f"<table><tr><th>metric<th>edge{head}{''.join(rows)}</table>"


def _ratio(metric: str, ratio: float | None) -> str:
    better = higher_is_better(metric)
    if ratio is None:
        return "<td>"
    kind = "" if better is None else " class=good" if (ratio >= 1) == better or ratio == 1 else " class=bad"
    return f"<td{kind}>{ratio:.3g}"


def _environment(result: Result) -> str:
    rows = [f"<tr><td>{escape(key)}<td>{escape(_plain(value))}" for key, value in result.environment.items()]
    rows.append(f"<tr><td>created<td>{escape(result.created)}")
    return f"<p class=note>Environment</p><table>{''.join(rows)}</table>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return "unknown" if value is None else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
