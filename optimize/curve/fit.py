"""Would more training data help? A learning curve: the same recipe on 1/8, 1/4, 1/2 and all of its documents.

**Subsets** are of documents, never of questions, each holding the one before it: documents in an order that depends on
their names and the seed. Each model is judged on the same held-out examples.

**Steps, not passes, are the same for all.** The recipe's epochs on all of the data give the number of steps, and each
subset is trained for as many, with the same schedule, so it is read more often. Equal passes would give an eighth of
the data an eighth of the steps: what longer training brings would then be mistaken for what more data brings, and
whoever only had to raise `epochs` would be sent to write examples. A small subset is learned by heart in that many
steps, so a model is judged where its held-out loss was lowest, as in Hestness et al. 2017 ("Deep Learning Scaling is
Predictable, Empirically", arXiv:1712.00409), who train each subset of the data to its lowest held-out loss.
That up to four passes are worth nearly as much as new data, and more of them less and less, is in Muennighoff et al.
2023 (arXiv:2305.16264). The lowest of some ten held-out losses flatters each model a little, and all of them alike.

**Power law**: loss(n) = a * n**-b + c with n examples; Hestness et al.; for fine-tuning, adapters included,
Zhang et al. 2024 (arXiv:2402.17193). The floor c needs five sizes: with four it is held at 0, and the slope b is the
mean slope over the sizes measured, which predicts one doubling, not ten.

**Intervals** hold 95%, by a paired bootstrap over held-out documents (over examples where there are fewer than
MIN_CLUSTERS documents): all models see the same resampled documents, so what they share cancels. They say how sure the
held-out set is; that another seed trains another model is not in them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import FineTuneRecipe

ROUNDS = 2_000
MIN_CLUSTERS = 8
EVALUATIONS = 10
PATIENCE = 3
"""Held-out losses that may fail to improve before a training ends, where the recipe does not say: a subset that is
learned by heart need not go on."""
_FLOOR_POINTS = 5  # sizes that it takes to fit the floor
_FLOORS = 200  # of them tried


@dataclass(frozen=True)
class Interval:
    """A value and the bounds that hold it with 95%."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """loss(n) = a * n**-b + c, nats a token."""

    a: float
    b: float
    c: float

    def at(self, examples: float) -> float:
        return float(self.a * examples**-self.b + self.c)


@dataclass(frozen=True)
class Judged:
    """One model on each held-out example."""

    nats: NDArray[np.float64]  # (examples,) sum over the tokens of the answer
    tokens: NDArray[np.int64]  # (examples,)
    exact: NDArray[np.bool_]  # (examples,) greedy decoding gives the expected answer, token by token

    @property
    def loss(self) -> float:
        """Mean over all tokens, nats."""
        return float(self.nats.sum() / self.tokens.sum())


@dataclass(frozen=True)
class Point:
    """What one part of the data is worth; the untrained base has share 0."""

    share: float
    documents: int
    examples: int
    steps: int  # trained for; the weights are those of best_step
    best_step: int
    loss_nats: Interval  # held out, nats a token
    exact: float  # share of held-out answers that greedy decoding gives token by token


@dataclass(frozen=True)
class Finding:
    level: Literal["warning", "note"]
    text: str


@dataclass(frozen=True)
class Curve:
    """The curve and what follows from it; losses are nats a token of the held-out answers."""

    base: Point
    points: tuple[Point, ...]  # smallest first
    law: Law
    slope: Interval  # b
    doubling_gain_nats: Interval  # loss that twice the data are predicted to take off; negative: to add
    last_gain_nats: Interval  # loss that the second half of the documents took off
    training_gain_nats: Interval  # loss that training on all of them took off
    resampled: Literal["documents", "examples"]
    held_out_documents: int
    held_out_examples: int
    findings: tuple[Finding, ...] = ()  # see optimize/curve/findings.py


def shares(count: int) -> list[Fraction]:
    """`count` shares up to 1, each twice the one before."""
    return [Fraction(1, 2 ** (count - 1 - place)) for place in range(count)]


def subsets(samples: Sequence[Sample], parts: Sequence[Fraction], seed: int) -> list[list[Sample]]:
    """For each share, the samples of that share of the documents, in the order given; each holds those of the smaller.

    :raises UsageError: there are too few documents for parts that differ.
    """
    names = {sample.document for sample in samples}
    order = sorted(names, key=lambda name: _place(name, seed))
    needed = math.ceil(1 / min(parts))
    if len(order) < needed:
        raise UsageError(
            f"the training examples are of {len(order)} documents, and a curve of {len(parts)} sizes needs {needed} at "
            'least: lower --points, add documents, or name each example\'s document in its key "document"'
        )
    chosen = [set(order[: round(len(order) * part)]) for part in parts]
    return [[sample for sample in samples if sample.document in taken] for taken in chosen]


def _place(document: str, seed: int) -> str:
    return hashlib.sha256(f"curve {seed}\n{document}".encode("utf-8", "surrogatepass")).hexdigest()


def settled(recipe: FineTuneRecipe, steps: int, is_whole: bool) -> FineTuneRecipe:
    """The recipe for `steps` steps, judged often enough for its lowest held-out loss to be found and its weights kept.

    A recipe with an early stop of its own is kept to; the adapter of the whole data is then the one that
    `edge optimize finetune` makes, and used again if it is there.
    """
    if recipe.patience:
        return recipe if is_whole else replace(recipe, steps=steps)
    return replace(recipe, steps=steps, eval_every_steps=max(1, math.ceil(steps / EVALUATIONS)), patience=PATIENCE)


def fit(examples: Sequence[float], losses: Sequence[float]) -> Law:
    """The power law through the losses: least squares of log(loss - c), the floor c only where there are five sizes.

    :param examples: more than 0, and not all the same.
    :param losses: nats, more than 0.
    :raises ValueError: fewer than two sizes, or values that no power law has.
    """
    sizes, values = np.asarray(examples, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if len(set(examples)) < 2 or len(sizes) != len(values) or not (sizes > 0).all() or not (values > 0).all():
        raise ValueError("a power law needs two different sizes at least, and losses above 0")
    laws = _laws(np.log(sizes), values[None], _floors(len(sizes)))
    return Law(float(np.exp(laws[0, 0])), float(laws[0, 1]), float(laws[0, 2]))


def _floors(points: int) -> NDArray[np.float64]:
    """Floors to try, as shares of the lowest loss; 0 comes first, so that it is taken where all are alike."""
    return np.linspace(0, 0.99, _FLOORS) if points >= _FLOOR_POINTS else np.zeros(1)


def _laws(x: NDArray[np.float64], losses: NDArray[np.float64], floors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rounds, 3): log a, b and c of the fit of each row of `losses`, (rounds, sizes); x is log n, (sizes,)."""
    centred = x - x.mean()
    best = np.zeros((len(losses), 3))
    least = np.full(len(losses), np.inf)
    lowest = losses.min(axis=1)
    for share in floors:
        floor = share * lowest  # (rounds,)
        y = np.log(losses - floor[:, None])
        slope = (y * centred).sum(axis=1) / (centred**2).sum()
        start = y.mean(axis=1) - slope * x.mean()
        fitted = np.exp(start[:, None] + slope[:, None] * x) + floor[:, None]
        error = ((fitted - losses) ** 2).sum(axis=1)
        better = error < least * (1 - 1e-9)
        least = np.where(better, error, least)
        best[better] = np.stack([start, -slope, floor], axis=1)[better]
    return best


def measure(
    base: Judged,
    models: Sequence[Judged],
    points: Sequence[Point],
    held_out: Sequence[Sample],
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> Curve:
    """Fit: `models` are those of `points`, smallest first; their losses here replace those in `points`.

    :raises ValueError: a model was not asked the held-out examples, or there are fewer than two models.
    """
    everyone = [base, *models]
    if len(models) != len(points) or len(models) < 2 or any(len(one.nats) != len(held_out) for one in everyone):
        raise ValueError("a curve needs two models, each asked the same held-out examples")
    by_document = [sample.document for sample in held_out]
    enough = len(set(by_document)) >= MIN_CLUSTERS
    drawn = _resampled(everyone, by_document if enough else list(range(len(held_out))), rounds, seed)
    losses = np.array([one.loss for one in everyone])
    sizes = np.log([point.examples for point in points])
    laws = _laws(sizes, drawn[:, 1:], _floors(len(points)))
    law = fit([point.examples for point in points], list(losses[1:]))
    return Curve(
        base=_point(Point(0.0, 0, 0, 0, 0, Interval(0, 0, 0), 0.0), base, drawn[:, 0]),
        points=tuple(_point(p, m, drawn[:, i + 1]) for i, (p, m) in enumerate(zip(points, models, strict=True))),
        law=law,
        slope=_interval(law.b, laws[:, 1]),
        doubling_gain_nats=_interval(_gain(law, points[-1].examples), _gains(laws, sizes[-1])),
        last_gain_nats=_interval(losses[-2] - losses[-1], drawn[:, -2] - drawn[:, -1]),
        training_gain_nats=_interval(losses[0] - losses[-1], drawn[:, 0] - drawn[:, -1]),
        resampled="documents" if enough else "examples",
        held_out_documents=len(set(by_document)),
        held_out_examples=len(held_out),
    )


def _resampled(models: Sequence[Judged], clusters: Sequence[object], rounds: int, seed: int) -> NDArray[np.float64]:
    """Losses on resampled clusters, (rounds, models): a round draws the same clusters for all models."""
    _, place = np.unique([str(one) for one in clusters], return_inverse=True)
    count = int(place.max()) + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=rounds)  # (rounds, clusters)
    nats = np.stack([np.bincount(place, one.nats, count) for one in models], axis=1)  # (clusters, models)
    tokens = np.stack([np.bincount(place, one.tokens, count) for one in models], axis=1)
    drawn: NDArray[np.float64] = (times @ nats) / (times @ tokens)
    return drawn


def _point(point: Point, model: Judged, drawn: NDArray[np.float64]) -> Point:
    return replace(point, loss_nats=_interval(model.loss, drawn), exact=float(model.exact.mean()))


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def _gain(law: Law, examples: int) -> float:
    return law.at(examples) - law.at(2 * examples)


def _gains(laws: NDArray[np.float64], log_examples: float) -> NDArray[np.float64]:
    start, slope = laws[:, 0], laws[:, 1]
    gained: NDArray[np.float64] = np.exp(start - slope * log_examples) * (1 - 2.0**-slope)
    return gained
