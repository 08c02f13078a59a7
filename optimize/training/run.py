"""The trainer as a process: `python -m optimize.training.run JOB.json`. See optimize/finetune.py, which starts it.

One JSON object a line on stdout: {"step": ...} after each step, {"left_out": [...]} for examples that are too long,
{"dtype": "..."} for what matrix products are computed in, {"error": "..."} where it ends for a reason that it knows.
Everything else goes to the log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.config import parse
from edge.engine.base import Message
from edge.errors import EdgeError
from optimize import child, disk
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import FineTuneRecipe

STOPPED = 5
"""Exit code: asked to stop, and the checkpoint is written."""
EXPLAINED = 6
"""Exit code: an error that was sent."""


def _main(job: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> int:
    from optimize.training import adapter, checkpoint, loop
    from optimize.training.encode import Encoder, encode_all
    from optimize.training.losses import write_losses
    from optimize.training.model import Tuned

    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop.append(received))
    recipe = parse(FineTuneRecipe, job["recipe"], "recipe")  # YAML: JSON writes 1e-05, which YAML reads as text
    parent, work, out = Path(job["parent"]), Path(job["work"]), Path(job["out"])
    encoder = Encoder(parent)
    train, too_long = encode_all([_sample(row) for row in job["train"]], encoder, recipe.max_tokens)
    held_out: list[Any] = []
    if job["held_out"]:
        held_out, more = encode_all([_sample(row) for row in job["held_out"]], encoder, recipe.max_tokens)
        too_long += more
    if too_long:
        send({"left_out": too_long})
    tuned = Tuned(parent, recipe, checkpoint.recorded_dtype(work))
    send({"dtype": tuned.dtype})
    try:
        progress, weights = loop.train(
            tuned, train, held_out, work, lambda report: send({"step": asdict(report)}), lambda: bool(stop)
        )
    except loop.Stopped:
        return STOPPED
    except loop.Broken:
        adapter.write(tuned.state(), tuned.config(), job["base_id"], work / loop.KEPT)
        raise
    adapter.write(weights, tuned.config(), job["base_id"], out)
    with disk.explained(out):
        write_losses(progress, out)
    return 0


def _sample(row: dict[str, Any]) -> Sample:
    prompt = tuple(Message(role, content) for role, content in row["prompt"])
    return Sample(row["id"], row["document"], prompt, row["completion"])


def _start(path: Path) -> int:
    child.die_with_parent()
    child.quiet()
    # the libraries may print: what the parent reads goes through a descriptor of its own
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)

        def send(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        try:
            return _main(json.loads(path.read_text(encoding="utf-8")), send)
        except EdgeError as error:
            send({"error": str(error)})
            return EXPLAINED


if __name__ == "__main__":
    sys.exit(_start(Path(sys.argv[1])))
