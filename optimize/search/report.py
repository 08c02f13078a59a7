"""A search's result as a table, as result.json, as a drawing, and as the recipe of the pick."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.config import to_plain, to_yaml
from edge.files import write_atomic
from optimize.recipe import Recipe
from optimize.search.candidates import REFERENCE
from optimize.search.run import Result, Row

if TYPE_CHECKING:
    from rich.table import Table

RESULT, DRAWING, RECIPE = "result.json", "front.svg", "recipe.yaml"
_ROOM = 1.25  # of the pick's own figures that its recipe's gate allows, where the recipe asked for less


def write(result: Result, recipe: Recipe, out: Path) -> list[Path]:
    """Write result.json, recipe.yaml where something was picked, front.svg where matplotlib is installed.

    What an earlier search left under these names goes.
    """
    out.mkdir(parents=True, exist_ok=True)
    content: dict[str, str | bytes] = {RESULT: json.dumps(to_plain(result), indent=1, ensure_ascii=False) + "\n"}
    if result.picked is not None:
        content[RECIPE] = recipe_file(result, recipe)
    if importlib.util.find_spec("matplotlib") is not None and any(row.summary for row in result.rows):
        content[DRAWING] = drawn(result)
    for name in (RESULT, DRAWING, RECIPE):
        (out / name).unlink(missing_ok=True)
    for name, text in content.items():
        write_atomic(out / name, text)
    return [out / name for name in content]


def earlier_picks(out: Path | None, test_sha256: str) -> list[str]:
    """Names that the same test questions judged in the search that wrote to `out` before, oldest first."""
    try:
        found = json.loads((out / RESULT).read_text(encoding="utf-8")) if out is not None else {}
        if found["questions"]["test"]["sha256"] != test_sha256:
            return []
        picks = [*found["judged_before"], found["pick"]["name"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in dict.fromkeys(picks) if name is not None]


def picked_recipe(result: Result, recipe: Recipe) -> Recipe:
    """The recipe that builds the pick. Its gate lets the pick through: what it may lose was judged by its answers.

    :raises ValueError: nothing was picked.
    """
    row = result.picked
    if row is None or row.figures is None:
        raise ValueError("nothing was picked")
    found, asked = row.figures.gate, recipe.gate
    gate = dataclasses.replace(
        asked,
        max_kl_nats=max(asked.max_kl_nats, _short(found.kl_nats * _ROOM)),
        max_perplexity_ratio=max(asked.max_perplexity_ratio, _short(1 + (found.perplexity_ratio - 1) * _ROOM)),
        min_top1_agreement=min(asked.min_top1_agreement, _short(found.top1_agreement / _ROOM)),
        min_greedy_agreement=min(asked.min_greedy_agreement, _short(found.greedy_agreement / _ROOM)),
    )
    return dataclasses.replace(recipe, name=f"{recipe.name}-{_slug(row.name)}", model=row.model, gate=gate)


def recipe_file(result: Result, recipe: Recipe) -> str:
    """The YAML file of `picked_recipe`."""
    state = result.confirmation.state if result.confirmation else "not confirmed"
    head = [
        f"# {recipe.name} with {result.pick.name!r}, the pick of `edge optimize search`:",
        f"# {result.pick.why}.",
        f"# On the test documents: {state}. Where its own figures need it, the gate is wider than the recipe's was.",
        "#",
        f"#   edge optimize run {RECIPE} --out DIR",
    ]
    return "\n".join(head) + "\n\n" + to_yaml(picked_recipe(result, recipe))


def table(result: Result) -> Table:
    """One line for each build that works: smallest first, those on the front and the pick marked."""
    from rich.table import Table

    shown = Table(title="Builds", title_justify="left", box=None)
    shown.add_column("")
    shown.add_column("build", overflow="fold")
    for title in ("MB", "MiB", "tok/s", "KL", "F1", "to fp32, 95%", ""):
        shown.add_column(title, justify="right", no_wrap=True)
    done = [row for row in result.rows if row.figures is not None]
    for row in sorted(done, key=lambda row: (row.figures.bytes, row.name) if row.figures else (0, "")):
        mark = "▶" if row.name == result.pick.name else "•" if row.name in result.front else ""
        shown.add_row(mark, row.name, *_cells(row))
    return shown


def lines(result: Result) -> list[str]:
    """What the table does not say: failures, the pick, its confirmation."""
    said = [f"{row.name}: {_failure(row.failed)}" for row in result.rows if row.failed]
    said.append(f"pick: {result.pick.name or 'none'}: {result.pick.why}")
    if found := result.confirmation:
        by = found.verdict.comparison
        said.append(
            f"on {by.questions} questions about other documents: {found.state}; F1 {_f1(found.pick.f1)}, fp32 "
            f"{_f1(found.reference.f1)}, difference {by.difference:+.3f}, 95% between {by.low:+.3f} and {by.high:+.3f}"
        )
        if found.state == "inconclusive" and found.verdict.needed_questions is not None:
            said.append(f"if it differs as measured, that takes about {found.verdict.needed_questions} questions")
    if result.judged_before:
        said.append(
            f"the same test documents judged {', '.join(result.judged_before)} before: the more often they are used to "
            "decide, the less they say"
        )
    return said


LEGEND = (
    "MB of the model on disk, MiB of private memory, decoded tokens/s, KL to fp32 in nats; ▶ pick, • on the front of "
    "size and F1"
)


def drawn(result: Result) -> bytes:
    """Size against F1 as SVG, the front as a line; needs matplotlib."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    points = {
        row.name: (row.figures.bytes / 1e6, row.summary.f1)
        for row in result.rows
        if row.figures is not None and row.summary is not None and row.summary.f1 is not None
    }
    with matplotlib.rc_context({"svg.hashsalt": "search", "font.size": 9}):  # the same result, the same file
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if REFERENCE in points:
            f1 = points.pop(REFERENCE)[1]
            axes.axhline(f1, color="#5b6675", linewidth=1, label=REFERENCE)
            axes.axhline(f1 - float(result.search["max_f1_loss"]), color="#5b6675", linewidth=1, linestyle=":",
                         label="less what may be lost")  # fmt: skip
        _draw_front(axes, [points[name] for name in result.front])
        for row in result.rows:
            if row.name in points:
                _draw_point(axes, row, points[row.name], row.name == result.pick.name)
        axes.set(xlabel="model on disk, MB", ylabel="F1 on the validation questions")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _draw_front(axes: Any, points: list[tuple[float, float]]) -> None:
    if points:
        axes.step(*zip(*points, strict=True), where="post", color="#9db4c9", label="front")


def _draw_point(axes: Any, row: Row, at: tuple[float, float], is_pick: bool) -> None:
    color = "#b3402a" if is_pick else "#1c2430"
    if row.verdict is not None:  # the interval of the difference, around the point
        by = row.verdict.comparison
        reach = [[max(0.0, by.difference - by.low)], [max(0.0, by.high - by.difference)]]
        axes.errorbar([at[0]], [at[1]], yerr=reach, color=color, linewidth=0.7, capsize=2, marker="o", markersize=4)
    axes.annotate(row.name, at, xytext=(5, 4), textcoords="offset points", color=color)


def _cells(row: Row) -> list[str]:
    figures, verdict = row.figures, row.verdict
    if figures is None:
        return []
    return [
        f"{figures.bytes / 1e6:.1f}",
        f"{figures.private_bytes / 2**20:.0f}",
        f"{row.speed.decode_tok_per_sec:.0f}" if row.speed else "-",
        f"{abs(figures.gate.kl_nats):.4f}",
        _f1(row.summary.f1 if row.summary else None),
        f"{verdict.comparison.low:+.3f} … {verdict.comparison.high:+.3f}" if verdict else "",
        verdict.state if verdict else "",
    ]


def _failure(message: str) -> str:
    """What failed, and the last line of its log, which mostly says why."""
    first, *rest = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{first.removesuffix('; the last lines:')}: {rest[-1]}" if rest else first


def _f1(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _short(value: float) -> float:
    return float(f"{value:.3g}")
