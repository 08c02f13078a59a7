"""Several samples in one sequence, with what their prompts share read once (pure, numpy only).

Prompts on the same passages differ in their last words alone, because edge.prompt puts stable text first. A pack holds
its samples as a tree of tokens: a sample's new tokens hang on the longest prefix that it shares with the one before
it. Each token sees its ancestors and itself, and its position is its depth, so the model computes for it what it would
compute in a sequence of its own. Passages with seven questions are so read once instead of seven times; samples that
share nothing stand side by side, without padding.

The same idea for inference: tree attention, SpecInfer, arXiv:2305.09781.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optimize.finetune_recipe import FineTuneRecipe
from optimize.training.encode import Encoded

FAMILY_SHARE = 0.5
"""Samples whose prompts share this much are kept together when the order is drawn."""


@dataclass(frozen=True, slots=True)
class Pack:
    """One sequence of T tokens with K tokens to predict."""

    ids: NDArray[np.int64]  # (T,)
    positions: NDArray[np.int64]  # (T,) depth in the tree, from 0
    mask: NDArray[np.bool_]  # (T, T) row sees column
    rows: NDArray[np.int64]  # (K,) token whose output predicts the target; one may predict several
    targets: NDArray[np.int64]  # (K,)
    weights: NDArray[np.float32]  # (K,) of each target in the loss
    samples: int


def pack(samples: Sequence[Encoded], weight: Literal["token", "completion"] = "token") -> Pack:
    """Lay samples out in one sequence.

    :param weight: token gives each target the weight 1, completion gives each sample 1 over all of its targets.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    spans: list[tuple[int, int, list[int]]] = []  # of new tokens, with the prefix that they hang on
    path: list[int] = []  # where the tokens of the sample before stand
    previous: tuple[int, ...] = ()
    for sample in sorted(samples, key=lambda one: one.prompt):
        shared = shared_tokens(previous, sample.prompt)
        new = (*sample.prompt, *sample.completion[:-1])[shared:]
        start = len(ids)
        ids += new
        positions += range(shared, shared + len(new))
        spans.append((start, len(ids), path[:shared]))
        path = [*path[:shared], *range(start, len(ids))]
        rows += path[len(sample.prompt) - 1 :]
        targets += sample.completion
        weights += [1.0 if weight == "token" else 1 / len(sample.completion)] * len(sample.completion)
        previous = sample.prompt
    mask = np.zeros((len(ids), len(ids)), dtype=np.bool_)
    for start, end, prefix in spans:
        mask[start:end, prefix] = True
        mask[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
    return Pack(
        np.array(ids, dtype=np.int64),
        np.array(positions, dtype=np.int64),
        mask,
        np.array(rows, dtype=np.int64),
        np.array(targets, dtype=np.int64),
        np.array(weights, dtype=np.float32),
        len(samples),
    )


def shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def families(samples: Sequence[Encoded]) -> list[list[int]]:
    """Places of the samples, those with much of their prompts in common together, in the order of their tokens."""
    order = sorted(range(len(samples)), key=lambda place: samples[place].prompt)
    groups: list[list[int]] = []
    for place in order:
        prompt = samples[place].prompt
        if groups and shared_tokens(samples[groups[-1][-1]].prompt, prompt) >= FAMILY_SHARE * len(prompt):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def fill(samples: Sequence[Encoded], groups: Sequence[Sequence[int]], tokens: int, count: int) -> list[list[int]]:
    """Packs of at most `tokens` tokens and `count` samples (0: any number), in the order of the groups.

    A group is split only where it does not fit into a pack of its own. A sample alone may be larger than a pack.
    """
    packs: list[list[int]] = []
    room, places = 0, 0
    for group in groups:
        sizes = [
            samples[place].tokens - (shared_tokens(samples[group[i - 1]].prompt, samples[place].prompt) if i else 0)
            for i, place in enumerate(group)
        ]
        fits = sum(sizes) <= room and (not count or len(group) <= places)
        is_open = bool(packs) and fits
        for place, size in zip(group, sizes, strict=True):
            if not is_open or size > room or (count and places < 1):
                packs.append([])
                room, places, size, is_open = tokens, count, samples[place].tokens, True  # its prefix is read anew
            packs[-1].append(place)
            room, places = room - size, places - 1
    return packs


def plan(samples: Sequence[Encoded], recipe: FineTuneRecipe) -> list[list[list[int]]]:
    """What each step reads: its packs, as places in `samples`. A function of its arguments alone.

    `recipe.steps` are as many whatever `recipe.epochs` says; 0: as many as the epochs take.
    """
    drawn = _packs(samples, families(samples), recipe.batch_tokens, recipe.batch, recipe.seed)
    packs: list[list[int]] = []
    if recipe.steps:
        while len(packs) < recipe.steps * recipe.accumulation:
            packs += next(drawn)
        packs = packs[: recipe.steps * recipe.accumulation]
    else:
        for _ in range(int(recipe.epochs)):
            packs += next(drawn)
        if rest := recipe.epochs - int(recipe.epochs):
            last = next(drawn)
            packs += last[: math.ceil(rest * len(last))]
    return [packs[start : start + recipe.accumulation] for start in range(0, len(packs), recipe.accumulation)]


def _packs(
    samples: Sequence[Encoded], groups: list[list[int]], tokens: int, count: int, seed: int
) -> Iterator[list[list[int]]]:
    """The packs of one epoch after the other, each in an order of its own."""
    epoch = 0
    while True:
        order = list(groups)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        yield fill(samples, order, tokens, count)
        epoch += 1
