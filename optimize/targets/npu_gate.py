"""How far is the form for an accelerator from the CPU form of the same bundle?

Both read the beginnings of windows of the gate's text (`optimize.evaluate`), teacher-forced. Compared are the tokens
found most likely and the KL divergence KL(CPU form || NPU form), mean over positions, natural logarithm. The fp32
parent read the same windows for the model's own gate, so how far both forms are from it stands beside: two roundings of
one parent differ more from each other than either does from the parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge.config import to_plain
from edge.errors import GateError
from edge.files import write_atomic
from optimize import evaluate, projection

RESULT = "npu.json"

Logits = Callable[[Any], Any]
"""int64 (time,) -> logits float32 (time, vocabulary)"""


class Thresholds(Protocol):
    """What a target's gate asks for."""

    @property
    def min_top1_agreement(self) -> float: ...
    @property
    def max_kl_nats(self) -> float: ...


@dataclass(frozen=True)
class NpuResult:
    tokens: int  # positions compared
    top1_agreement: float  # share of them with the same most likely token as the CPU form
    kl_nats: float  # mean KL(CPU form || this form)
    parent_top1_agreement: float  # the same two against the fp32 parent
    parent_kl_nats: float
    cpu_parent_top1_agreement: float  # and of the CPU form against the parent, over the same positions
    cpu_parent_kl_nats: float


def windows(reference: Path, tokens: int, multiple: int) -> Any:
    """Beginnings of the gate's windows, int64 (windows, time): about `tokens` positions, spread over the text.

    :param reference: folder of `optimize.evaluate.read_parent`.
    :param multiple: the chunk: `time` is a multiple of it.
    """
    import numpy as np

    every = np.load(reference / "tokens.npy")
    time = min(every.shape[1], max(128, multiple)) // multiple * multiple or multiple
    count = min(len(every), -(-tokens // time))
    chosen = np.linspace(0, len(every) - 1, count).astype(int)
    return every[chosen, :time]


def compare(cpu: Path, reference: Path, tokens: Any, logits: Logits) -> NpuResult:
    """Compare what `logits` gives with the CPU form in `cpu` and with the parent.

    :param tokens: of `windows`.
    """
    import numpy as np
    import torch

    every, states = np.load(reference / "tokens.npy"), np.load(reference / "hidden.npy", mmap_mode="r")
    head = projection.load(reference)
    of_cpu = evaluate.teacher_forced(cpu)
    sums = dict.fromkeys(("npu", "parent", "cpu"), (0.0, 0.0))
    for window in tokens:
        time = len(window)
        place = int(np.flatnonzero((every[:, :time] == window).all(axis=1))[0])
        npu, on_cpu = torch.from_numpy(logits(window)), torch.from_numpy(of_cpu(window))
        parent = head.logits(torch.from_numpy(np.array(states[place, :time])))
        for name, (one, other) in {"npu": (on_cpu, npu), "parent": (parent, npu), "cpu": (parent, on_cpu)}.items():
            found = evaluate.distances(one, other, torch.from_numpy(window))
            sums[name] = sums[name][0] + found["same"], sums[name][1] + found["kl"]
    count = tokens.size
    means = [float(f"{value / count:.4g}") for name in ("npu", "parent", "cpu") for value in sums[name]]
    return NpuResult(count, *means)


def write(result: NpuResult, out: Path) -> None:
    write_atomic(out / RESULT, json.dumps(to_plain(result)))


def read(folder: Path) -> NpuResult:
    return NpuResult(**json.loads((folder / RESULT).read_text(encoding="utf-8")))


def judge(
    what: str, result: NpuResult, recipe: Thresholds, parent: tuple[float, float] | None = None
) -> dict[str, Any]:
    """The result with its thresholds, as the manifest keeps it.

    :param what: names the form in the error.
    :param parent: how much less than the CPU form it may agree with the fp32 parent, over the same positions, and the
        greatest KL divergence from it. Relative, since the kernels of a CPU move both forms alike.
    :raises GateError: a threshold is missed; the message is the whole table.
    """
    checks = [
        ("top1_agreement", result.top1_agreement, ">=", recipe.min_top1_agreement),
        ("kl_nats", result.kl_nats, "<=", recipe.max_kl_nats),
    ]
    if parent is not None:
        checks += [
            ("parent_top1_loss", result.cpu_parent_top1_agreement - result.parent_top1_agreement, "<=", parent[0]),
            ("parent_kl_nats", result.parent_kl_nats, "<=", parent[1]),
        ]
    lines, missed = [], False
    for name, value, relation, limit in checks:
        holds = value >= limit if relation == ">=" else value <= limit
        missed |= not holds  # a NaN misses both
        lines.append(f"  {name:22} {value:<10.5g} must be {relation} {limit:<8.5g} {'ok' if holds else 'MISSED'}")
    if missed:
        own = f"  (the CPU form itself against the parent: {result.cpu_parent_top1_agreement}, "
        own += f"{result.cpu_parent_kl_nats} nats)"
        title = f"{what} lost too much (over {result.tokens} tokens); nothing was packaged"
        raise GateError("\n".join([title, *lines, own, "Change qnn, or its gate, in the recipe"]))
    return {**to_plain(result), "thresholds": {name: limit for name, _, _, limit in checks}}
