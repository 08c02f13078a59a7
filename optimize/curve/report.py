"""A learning curve as a table, as lines, and as a picture where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.config import to_plain
from edge.files import write_atomic
from optimize import disk
from optimize.curve.fit import Curve, Point

if TYPE_CHECKING:
    from rich.table import Table

RESULT = "curve.json"
DRAWING = "curve.svg"
LEGEND = (
    "held-out loss in nats a token with its 95% interval, at the best step; exact: greedy decoding gives the expected "
    "answer token by token"
)


def write(curve: Curve, folder: Path) -> list[Path]:
    """Write RESULT and, with the extra `bench`, DRAWING; the files written.

    :raises BuildError: the disk is full.
    """
    files: dict[str, str | bytes] = {RESULT: json.dumps(to_plain(curve), indent=1) + "\n"}
    if importlib.util.find_spec("matplotlib") is not None:
        files[DRAWING] = drawn(curve)
    with disk.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(folder / name, content)
    return [folder / name for name in files]


def table(curve: Curve) -> Table:
    """One line for the untrained base and for each size."""
    from rich.table import Table

    shown = Table(title="Learning curve", title_justify="left", box=None)
    for title in ("part", "documents", "examples", "best step", "loss", "95%", "exact"):
        shown.add_column(title, justify="right", no_wrap=True)
    for point in (curve.base, *curve.points):
        shown.add_row(*_cells(point))
    return shown


def lines(curve: Curve) -> Iterable[str]:
    """What the table does not say: the law, and what follows."""
    law, slope, gain = curve.law, curve.slope, curve.doubling_gain_nats
    floor = f" + {law.c:.4f}" if law.c else ""
    yield f"loss = {law.a:.4f} * examples^-{law.b:.4f}{floor}; slope between {slope.low:.4f} and {slope.high:.4f}"
    yield (
        f"twice the data: {-gain.value:+.4f} nats predicted, between {-gain.high:+.4f} and {-gain.low:+.4f} "
        f"({curve.held_out_examples} held-out examples of {curve.held_out_documents} documents)"
    )
    for finding in curve.findings:
        yield f"{finding.level}: {finding.text}"


def drawn(curve: Curve) -> bytes:
    """Loss against examples, both logarithmic, with the law up to twice the data, as SVG; needs matplotlib."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    sizes = [point.examples for point in curve.points]
    values = [point.loss_nats for point in curve.points]
    reach = [[max(0.0, v.value - v.low) for v in values], [max(0.0, v.high - v.value) for v in values]]
    along = np.geomspace(sizes[0], 2 * sizes[-1], 60)
    with matplotlib.rc_context({"svg.hashsalt": "curve", "font.size": 9}):  # the same result, the same file
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="examples trained on", ylabel="held-out loss, nats a token")
        axes.axhline(curve.base.loss_nats.value, color="#5b6675", linestyle=":", linewidth=1, label="untrained")
        axes.plot(
            along, [curve.law.at(float(n)) for n in along], color="#9db4c9", label=f"slope {curve.slope.value:.3f}"
        )
        axes.errorbar(sizes, [v.value for v in values], yerr=reach, color="#b3402a", fmt="o", markersize=4, capsize=2,
                      linewidth=0.8, label="measured, 95%")  # fmt: skip
        axes.set_xticks([*sizes, 2 * sizes[-1]], [str(n) for n in (*sizes, 2 * sizes[-1])])
        axes.minorticks_off()
        lowest, highest = axes.get_ylim()
        ticks = np.geomspace(lowest, highest, 6)[1:-1]
        axes.set_yticks(ticks, [f"{value:.3g}" for value in ticks])
        axes.legend(frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _cells(point: Point) -> list[str]:
    loss = point.loss_nats
    figures = [f"{loss.value:.4f}", f"{loss.low:.4f} … {loss.high:.4f}", f"{point.exact:.3f}"]
    if not point.share:
        return ["untrained", "", "", "", *figures]
    part = str(Fraction(point.share))
    return [part if part != "1" else "all", f"{point.documents}", f"{point.examples}", f"{point.best_step}", *figures]
