"""The losses of a training as numbers, and as a picture where matplotlib is installed."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

from edge.files import write_atomic
from optimize.training.checkpoint import Progress


def write_losses(progress: Progress, folder: Path) -> None:
    """Write losses.json (nats) and, with the extra `bench`, losses.svg."""
    content = {
        "steps": progress.step,
        "best_step": progress.best_step,
        "train_nats": [[int(step), round(loss, 6)] for step, loss in progress.losses],
        "held_out_nats": [[int(step), round(loss, 6)] for step, loss in progress.held_out],
    }
    write_atomic(folder / "losses.json", json.dumps(content) + "\n")
    if progress.losses and importlib.util.find_spec("matplotlib") is not None:
        write_atomic(folder / "losses.svg", _drawn(progress))


def _drawn(progress: Progress) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "losses"}):  # the same losses, the same file
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.plot(*_columns(progress.losses), color="#9db4c9", linewidth=1, label="training, each step")
        if progress.held_out:
            axes.plot(*_columns(progress.held_out), color="#b3402a", marker="o", markersize=3, label="held out")
        axes.set(xlabel="step", ylabel="loss, nats", ylim=(0, None))
        axes.legend(frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _columns(pairs: list[list[float]]) -> tuple[list[float], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
