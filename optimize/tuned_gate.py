"""Did tuning pay? A tuned build against its parent, built the same way, on the runtime that ships.

- It answers the held-out questions better, end to end over an index of their passages: paired bootstrap over F1.
- It has not forgotten: next-token accuracy on the text in optimize/data/gate, which is about other things.
- It is as quick, and takes as much memory.

A build that fails any of these is not packaged, and the error is the table that shows why. A ready adapter brings no
questions, so only what it has forgotten is measured again; its scores stand in its card.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edge.box import Box
from edge.config import EdgeConfig
from edge.errors import GateError
from edge.files import write_atomic
from optimize import scores, trial
from optimize.dataset.examples import Example
from optimize.recipe import TunedGateRecipe
from optimize.trial import Asked

SEED = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; None where there were no questions to ask."""

    parent_accuracy: float  # of the next token on the gate's text
    accuracy: float
    forgetting: float  # share of the parent's accuracy that is lost; below 0 where it gained
    questions: int = 0
    parent_f1: float | None = None
    f1: float | None = None
    parent_em: float | None = None
    em: float | None = None
    f1_low: float | None = None  # of the interval that holds the difference of F1 with 95%
    f1_high: float | None = None
    p: float | None = None  # that F1 is not higher
    sec_ratio: float | None = None
    memory_ratio: float | None = None


def chosen(examples: Sequence[Example], most: int) -> list[Example]:
    """The held-out questions that are asked: each once, those with passages, at most `most`, drawn evenly."""
    distinct = list({example.question: example for example in examples if example.passages}.values())
    return distinct if len(distinct) <= most else random.Random(SEED).sample(distinct, most)


def ask(bundles: Mapping[str, Callable[[Path], object]], examples: Sequence[Example], out: Path) -> None:
    """Put the questions to each side, over an index of their passages, and write `<side>.json` into `out`.

    :param bundles: side -> what writes its bundle to a folder.
    """
    scratch = out / ".scratch"
    for side, write in bundles.items():
        folder = scratch / side
        write(folder)
        with Box(folder, scratch / "index.db", EdgeConfig()) as box:
            asked = trial.ask(box, examples)
        write_atomic(out / f"{side}.json", json.dumps([asdict(one) for one in asked]))


def read(folder: Path, side: str) -> list[Asked]:
    """What `ask` wrote."""
    return [Asked(**row) for row in json.loads((folder / f"{side}.json").read_text(encoding="utf-8"))]


def figures(
    parent_accuracy: float,
    accuracy: float,
    sides: tuple[Sequence[Asked], Sequence[Asked]] | None = None,
    memory_bytes: tuple[int, int] | None = None,
) -> Figures:
    """What the measurements of the parent and of the tuned build, in this order, come to."""
    forgetting = 1 - accuracy / parent_accuracy
    if sides is None or memory_bytes is None:
        return Figures(_four(parent_accuracy), _four(accuracy), _four(forgetting))
    answerable = [(one, other) for one, other in zip(*sides, strict=True) if one.answerable]
    found = scores.compare([one.f1 for one, _ in answerable], [other.f1 for _, other in answerable])
    parent, tuned = (trial.summary(side) for side in sides)
    seconds = [median(one.seconds for one in side) for side in sides]
    return Figures(
        _four(parent_accuracy),
        _four(accuracy),
        _four(forgetting),
        questions=len(sides[0]),
        parent_f1=_four(parent.f1 or 0.0),
        f1=_four(tuned.f1 or 0.0),
        parent_em=_four(parent.em or 0.0),
        em=_four(tuned.em or 0.0),
        f1_low=_four(found.low),
        f1_high=_four(found.high),
        p=found.p,
        sec_ratio=_four(seconds[1] / seconds[0]),
        memory_ratio=_four(memory_bytes[1] / memory_bytes[0]),
    )


def judge(found: Figures, recipe: TunedGateRecipe) -> dict[str, Any]:
    """The figures with their thresholds, as the manifest keeps them.

    :raises GateError: a threshold is missed; the message is the whole table.
    """
    limits = {
        "p": recipe.max_p,
        "forgetting": recipe.max_forgetting,
        "sec_ratio": recipe.max_sec_ratio,
        "memory_ratio": recipe.max_memory_ratio,
    }
    lines, failed = [], False
    if found.f1 is not None:
        lines.append(f"  F1 {found.parent_f1} before, {found.f1} after; exact match {found.parent_em}, {found.em}")
    for name, limit in limits.items():
        value = getattr(found, name)
        if value is None:
            continue
        passed = value <= limit
        failed |= not passed  # a NaN fails
        lines.append(f"  {name:18} {value:<10.4g} must be <= {limit:<10.4g} {'ok' if passed else 'FAILED'}")
    if failed:
        head = "the tuned build is not worth more than its parent; nothing was packaged"
        advice = "Train on more or better data (`edge optimize data check`), or change `tuned_gate:` in the recipe"
        raise GateError("\n".join([head, *lines, advice]))
    return {**{key: value for key, value in asdict(found).items() if value is not None}, "thresholds": limits}


def _four(value: float) -> float:
    return float(f"{value:.4g}")
