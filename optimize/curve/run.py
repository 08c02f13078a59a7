"""The models of a learning curve: trained and judged one after the other, smallest first, each a cached stage.

Interrupted or killed, the same command goes on: what is finished is found again, and what was in training goes on from
its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge.config import to_plain
from edge.errors import ConfigError, UsageError
from optimize import finetune
from optimize.build import Build
from optimize.curve import losses
from optimize.curve.findings import judge
from optimize.curve.fit import Curve, Interval, Judged, Point, measure, settled, shares, subsets
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import FineTuneRecipe
from optimize.stages import Stage, code, digest_of, tools
from optimize.training import encode, model, pack


def run(
    build: Build,
    points: int = 4,
    seed: int = 0,
    watch: finetune.Watch | None = None,
    on_part: Callable[[str], None] = lambda _: None,
) -> Curve:
    """Train the recipe on `points` sizes of its data, each twice the one before, and compare their held-out losses.

    :param watch: called after each step of a training.
    :param on_part: called with what is trained next, and with what came out.
    :raises ConfigError: the recipe has no section finetune.
    :raises UsageError: nothing is held out, there are too few documents or examples, or Olive is to
        train.
    :raises BuildError: a training broke down or was interrupted.
    """
    recipe = checked(build)
    train, held_out = finetune.read_samples(recipe.data)
    if not held_out:
        raise UsageError("the data hold no example out: name finetune.data.held_out, or a split that holds some out")
    parts = shares(points)
    chosen = subsets(train, parts, seed)
    base = build.base()
    steps, too_long = _encoded(base.path, recipe, train)
    sizes = _sizes(chosen, too_long, recipe.max_tokens)
    untrained, places = _judged(build, base, None, recipe, held_out)
    on_part(f"untrained: held-out loss {untrained.loss:.4f} nats a token")
    models: list[Judged] = []
    made: list[Point] = []
    for part, samples, size in zip(parts, chosen, sizes, strict=True):
        documents = len({sample.document for sample in samples})
        on_part(f"{part} of the documents: {size} examples of {documents}, {steps} steps")
        with_steps = settled(recipe, steps, part == 1)
        adapter = finetune.finetune(base, build.recipe.base.id, with_steps, samples, held_out, watch, build.stage)
        judged, _ = _judged(build, base, adapter, recipe, held_out)
        losses = json.loads((adapter.path / "losses.json").read_text(encoding="utf-8"))
        unknown = Interval(judged.loss, judged.loss, judged.loss)
        made.append(Point(float(part), documents, size, losses["steps"], losses["best_step"], unknown, 0.0))
        models.append(judged)
        on_part(f"{part} of the documents: held-out loss {judged.loss:.4f} nats a token")
    found = measure(untrained, models, made, [held_out[place] for place in places], seed=seed)
    return replace(found, findings=tuple(judge(found)))


def checked(build: Build) -> FineTuneRecipe:
    """The section `finetune`, where a curve can be made of it; raises what `run` raises."""
    recipe = build.recipe.finetune
    if recipe is None:
        raise ConfigError(f"recipe {build.recipe.name} has no section finetune: say there how to tune, and on what")
    if recipe.trainer == "olive":
        raise UsageError(
            "trainer: olive measures no held-out loss, so there is no curve: take trainer: completion for it"
        )
    return recipe


def _encoded(parent: Path, recipe: FineTuneRecipe, train: Sequence[Sample]) -> tuple[int, set[Sample]]:
    """How many steps the recipe takes on all of the data, and the samples that are too long to be trained on."""
    encoder = encode.Encoder(parent)
    encoded, _ = encode.encode_all(train, encoder, recipe.max_tokens)
    planned = pack.plan(encoded, recipe)
    return len(planned), {sample for sample in train if encoder.encode(sample).tokens > recipe.max_tokens}


def _sizes(chosen: Sequence[Sequence[Sample]], too_long: set[Sample], max_tokens: int) -> list[int]:
    """How many examples of each part are trained on.

    :raises UsageError: one has none, or no more than the part before it.
    """
    sizes = [sum(sample not in too_long for sample in samples) for samples in chosen]
    if not sizes[0] or any(later <= size for size, later in pairwise(sizes)):
        raise UsageError(
            f"the parts hold {', '.join(map(str, sizes))} examples of at most finetune.max_tokens: {max_tokens}, and "
            "each must hold more than the one before: raise it, or lower --points"
        )
    return sizes


_READ = ("method", "rank", "alpha", "targets", "batch_tokens", "max_tokens")
"""What shapes the adapter and the packs: how it was trained does not change what its losses are."""


def _judged(
    build: Build, base: Stage, adapter: Stage | None, recipe: FineTuneRecipe, held_out: Sequence[Sample]
) -> tuple[Judged, list[int]]:
    reads: dict[str, Any] = {
        "parent": base.digest,
        "adapter": adapter.digest if adapter else None,
        "recipe": {name: to_plain(getattr(recipe, name)) for name in _READ},
        "held_out": digest_of([to_plain(sample) for sample in held_out]),
        "tools": tools(*finetune.TOOLS),
        "code": code(losses, model, pack, encode),
    }
    work = partial(
        losses.judge_model, base.path, adapter.path if adapter else None, recipe, held_out,
        log_name=f"held-out-loss-{digest_of(reads)[:12]}",
    )  # fmt: skip
    return losses.read(build.stage("held-out-loss", reads, work).path)
