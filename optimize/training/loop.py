"""The training loop: packs in the planned order, one update a step, held-out loss, checkpoints, resume.

Each step is a function of the weights before it, the plan, and the seed: dropout is seeded by the step, the learning
rate follows from it. A run that is killed and resumed ends with the bits of one that was not (on the same number of
threads; the order of sums depends on them).

The loss of a step is the sum over all its targets divided by the sum of their weights, over all of its packs: so the
gradient does not depend on how samples were laid out. With `loss_weight: token` (the default) that is the plain
log-likelihood of the answers; `completion` lets a short answer count as much as a long one.

With `anchor`, a step also holds the tuned model to the base on tokens of the prompts, where no answer is predicted, so
that it learns how to answer and keeps what it knew: learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BuildError
from optimize.finetune_recipe import FineTuneRecipe
from optimize.training import checkpoint
from optimize.training.checkpoint import Progress
from optimize.training.encode import Encoded
from optimize.training.model import Tuned
from optimize.training.pack import Pack, families, fill, pack, plan

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.999)
ANCHORED = 128
"""Tokens of a step's first pack on which the distance from the base is taken."""
KEPT = "last-good"
"""Folder below the checkpoint's for the adapter of a training that broke down."""


@dataclass(frozen=True)
class Report:
    """One step, for whoever watches."""

    step: int  # 1-based
    steps: int  # in all, if nothing ends it early
    loss: float  # of this step, nats
    held_out_loss: float | None  # nats a token, where it was measured after this step
    learning_rate: float
    tokens_per_sec: float  # read, shared prefixes once
    completions_per_sec: float
    left_sec: float


class Broken(BuildError):
    """The loss is not finite; the adapter is as it was before that step."""


class Stopped(Exception):
    """Asked to end; the checkpoint holds all that was done."""


def train(
    tuned: Tuned,
    samples: Sequence[Encoded],
    held_out: Sequence[Encoded],
    work: Path,
    report: Callable[[Report], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Train until the plan's end or an early stop; the adapter's weights: the best where there is an early stop.

    :param work: holds the checkpoint; a run is resumed from the one that is there.
    :raises Broken: the loss is not finite; the checkpoint holds the last good weights.
    :raises BuildError: the disk is full.
    :raises Stopped: `should_stop()` said so.
    :raises ValueError: `tuned` computes in another type than the run that left the checkpoint: build it with
        `checkpoint.recorded_dtype(work)`.
    """
    return _Run(tuned, samples, held_out, work).run(report, should_stop)


class _Run:
    def __init__(self, tuned: Tuned, samples: Sequence[Encoded], held_out: Sequence[Encoded], work: Path) -> None:
        import torch

        self.tuned, self.samples, self.held_out, self.work = tuned, samples, held_out, work
        recipe = self.recipe = tuned.recipe
        self.plan = plan(samples, recipe)
        self.optimizer = torch.optim.AdamW(
            tuned.parameters(), lr=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
        )
        self.progress = Progress(dtype=tuned.dtype)
        self.best: dict[str, torch.Tensor] | None = None
        if found := checkpoint.load(work):
            self.progress, content = found
            if self.progress.dtype != tuned.dtype:
                raise ValueError(f"the checkpoint in {work} is of a training in {self.progress.dtype}")
            self.best = content["best"]
            tuned.load_state(content["weights"])
            self.optimizer.load_state_dict(content["optimizer"])
        self.saved_at = time.monotonic()

    def run(
        self, report: Callable[[Report], None], should_stop: Callable[[], bool]
    ) -> tuple[Progress, dict[str, torch.Tensor]]:
        done, began, tokens, completions = self.progress, time.monotonic(), 0, 0
        first = done.step
        while not done.is_finished:
            read = [pack([self.samples[place] for place in places], self.recipe.loss_weight) for places in
                    self.plan[done.step]]  # fmt: skip
            loss, rate = self._step(read)
            done.step += 1
            done.losses.append([done.step, loss])
            measured = self._evaluate() if self._is_time_to_evaluate() else None
            done.is_finished = done.step == len(self.plan) or self._is_enough()
            tokens += sum(len(one.ids) for one in read)
            completions += sum(one.samples for one in read)
            seconds = time.monotonic() - began
            left = (len(self.plan) - done.step) * seconds / (done.step - first)
            report(
                Report(
                    done.step, len(self.plan), loss, measured, rate, tokens / seconds, completions / seconds,
                    0.0 if done.is_finished else left,
                )
            )  # fmt: skip
            is_stopped = should_stop() and not done.is_finished
            if done.is_finished or is_stopped or time.monotonic() - self.saved_at >= self.recipe.checkpoint_every_sec:
                self._save()
            if is_stopped:
                raise Stopped
        return done, self.best if self.best is not None else self.tuned.state()

    def _step(self, packs: list[Any]) -> tuple[float, float]:
        """One update; the loss before it, nats, and the learning rate."""
        import torch

        step = self.progress.step
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # for dropout
        rate = self.recipe.learning_rate * rate_share(step, len(self.plan), self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        weight = float(sum(one.weights.sum() for one in packs))
        total = 0.0
        for number, one in enumerate(packs):
            rows = self._anchored(one, step) if self.recipe.anchor and number == 0 else None
            answers, distance = self.tuned.loss(one, self.recipe.label_smoothing, rows)
            loss = answers / weight
            total += float(loss.detach())
            if distance is not None:
                loss = loss + self.recipe.anchor * distance
            loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.tuned.parameters(), self.recipe.max_grad_norm))
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._give_up(total, norm)
        self.optimizer.step()
        return total, rate

    def _anchored(self, read: Pack, step: int) -> NDArray[np.int64]:
        """Tokens of the prompts, at most ANCHORED, drawn by the step: where no answer is predicted."""
        free = np.setdiff1d(np.arange(len(read.ids)), read.rows)
        rng = np.random.default_rng((self.recipe.seed, step))
        return np.sort(rng.choice(free, min(ANCHORED, len(free)), replace=False))

    def _give_up(self, loss: float, norm: float) -> None:
        """:raises Broken: always; the weights before this step are kept."""
        step = self.progress.step
        kept = "Nothing was learned before it."
        if step:
            self._save()
            kept = f"The adapter of step {step} is kept in {self.work / KEPT}."
        raise Broken(
            f"training broke down at step {step + 1}: the loss is {loss}, the length of the gradient {norm}. {kept} "
            f"Lower finetune.learning_rate ({self.recipe.learning_rate:g}), raise finetune.warmup_share, or set "
            "finetune.dtype: fp32"
        )

    def _is_time_to_evaluate(self) -> bool:
        every = self.recipe.eval_every_steps
        is_due = self.progress.step == len(self.plan) or bool(every and self.progress.step % every == 0)
        return bool(self.held_out) and is_due

    def _evaluate(self) -> float:
        done = self.progress
        loss = held_out_loss(self.tuned, self.held_out)
        if not math.isfinite(loss):
            raise BuildError(
                f"the held-out loss after step {done.step} is {loss}: lower finetune.learning_rate "
                f"({self.recipe.learning_rate:g}). Checkpoints before it are in {self.work}"
            )
        done.held_out.append([done.step, loss])
        if done.best_loss is None or loss < done.best_loss:
            done.best_loss, done.best_step, done.waited = loss, done.step, 0
            self.best = self.tuned.state() if self.recipe.patience else None
        else:
            done.waited += 1
        return loss

    def _is_enough(self) -> bool:
        return bool(self.recipe.patience) and self.progress.waited >= self.recipe.patience

    def _save(self) -> None:
        checkpoint.save(self.work, self.progress, self.tuned.state(), self.optimizer.state_dict(), self.best)
        self.saved_at = time.monotonic()


def held_out_loss(tuned: Tuned, samples: Sequence[Encoded]) -> float:
    """Mean loss over all completion tokens, nats."""
    total, targets = 0.0, 0
    with tuned.evaluating():
        for places in fill(samples, families(samples), tuned.recipe.batch_tokens, 0):
            one = pack([samples[place] for place in places])
            total += float(tuned.loss(one)[0])
            targets += len(one.targets)
    return total / targets


def rate_share(step: int, steps: int, recipe: FineTuneRecipe) -> float:
    """The learning rate at `step` (from 0) as a share of the highest: warmup, then the schedule down to 0."""
    warmup = math.ceil(recipe.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    past = (step - warmup) / max(1, steps - warmup)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * past))
    return 1 - past if recipe.schedule == "linear" else 1.0
