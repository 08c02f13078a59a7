"""Held-out losses of one model, example by example: `python -m optimize.curve.losses JOB.json`.

Always in float32, whatever the training computed in, so that all models of a curve are judged alike.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.config import parse, to_yaml
from edge.engine.base import Message
from edge.errors import BuildError
from edge.files import write_atomic
from optimize import child, finetune
from optimize.curve.fit import Judged
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import FineTuneRecipe

RESULT = "losses.json"


def judge_model(
    parent: Path, adapter: Path | None, recipe: FineTuneRecipe, held_out: Sequence[Sample], out: Path, log_name: str
) -> None:
    """Write RESULT into `out`; see `read`.

    :param adapter: None: the base as it is.
    :raises BuildError: it failed; names the log.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    job = {
        "parent": str(parent),
        "adapter": str(adapter) if adapter else None,
        "recipe": to_yaml(replace(recipe, dtype="fp32")),
        "held_out": [{**asdict(one), "prompt": [[turn.role, turn.content] for turn in one.prompt]} for one in held_out],
        "out": str(out / RESULT),
    }
    write_atomic(scratch / "job.json", json.dumps(job))
    child.run("optimize.curve.losses", [str(scratch / "job.json")], "Measuring the held-out loss", log_name, scratch)
    shutil.rmtree(scratch)


def read(folder: Path) -> tuple[Judged, list[int]]:
    """What `judge_model` wrote, and the places in `held_out` that it is of: those not longer than max_tokens."""
    rows = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return (
        Judged(
            np.array([row["nats"] for row in rows], dtype=np.float64),
            np.array([row["tokens"] for row in rows], dtype=np.int64),
            np.array([row["exact"] for row in rows], dtype=np.bool_),
        ),
        [int(row["place"]) for row in rows],
    )


def _main(job: dict[str, Any]) -> int:
    from optimize.training.encode import Encoder, encode_all
    from optimize.training.model import Tuned
    from optimize.training.pack import families, fill, pack

    parent = Path(job["parent"])
    recipe = parse(FineTuneRecipe, job["recipe"], "recipe")
    samples = [
        Sample(str(place), row["document"], tuple(Message(*turn) for turn in row["prompt"]), row["completion"])
        for place, row in enumerate(job["held_out"])
    ]
    encoded, _ = encode_all(samples, Encoder(parent), recipe.max_tokens)
    tuned = Tuned(parent, recipe)  # a fresh adapter changes nothing
    if job["adapter"]:
        from safetensors.torch import load_file

        weights = load_file(Path(job["adapter"]) / finetune.ADAPTER)
        tuned.load_state({name: tensor.float() for name, tensor in weights.items()})
    rows: list[dict[str, Any]] = [{} for _ in encoded]
    for places in fill(encoded, families(encoded), recipe.batch_tokens, 0):
        losses, right = tuned.judge(pack([encoded[place] for place in places]))
        start = 0
        for place in sorted(places, key=lambda place: encoded[place].prompt):  # the order in which `pack` lays them out
            end = start + len(encoded[place].completion)
            rows[place] = {
                "place": int(encoded[place].id),
                "nats": float(losses[start:end].sum(dtype=np.float64)),
                "tokens": end - start,
                "exact": bool(right[start:end].all()),
            }
            start = end
    if any(not np.isfinite(row["nats"]) for row in rows):
        raise BuildError("a held-out loss is not finite")
    write_atomic(Path(job["out"]), json.dumps(rows))
    return 0


if __name__ == "__main__":
    child.die_with_parent()
    child.quiet()
    sys.exit(_main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
