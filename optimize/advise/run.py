"""The measurement: index, train, build, ask four arms, change a tenth of the documents; within a time budget."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge import bundle
from edge.bench.environment import environment
from edge.box import Box, read_config
from edge.config import to_plain
from edge.errors import DatasetError, GateError
from edge.files import sha256_file, write_atomic
from edge.ingest.index import ingest
from optimize import finetune, pipeline, stages
from optimize.advise import arms, data, updates
from optimize.advise.arms import NAMES, Arm, Name, Row
from optimize.advise.figures import Column, Cost, column, differences
from optimize.advise.recommend import Advice, Training, Wishes, recommend
from optimize.build import Build, Report
from optimize.dataset.examples import Example
from optimize.dataset.splits import Split, write_split
from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.recipe import Recipe
from optimize.training import loop

SCHEMA = 1
ASKING_SHARE = 0.1  # of the time budget, for each of the four arms
TRAINING_SHARE = 0.4
MOST_EPOCHS = 4.0
TUNING: Any = {
    "rank": 16, "learning_rate": 5e-4, "batch_tokens": 1024, "max_tokens": 1280, "accumulation": 2, "anchor": 1.0,
    "eval_every_steps": 0, "dtype": "auto",
}  # fmt: skip
_PROBE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What to measure."""

    documents: Path
    questions: Path
    recipe: Recipe
    out: Path  # everything is written below it
    wishes: Wishes = field(default_factory=Wishes)
    budget_sec: float = 1800.0  # for asking and training; building the parts that all share comes on top
    held_out: float = 0.3  # share of the documents whose questions are asked
    config: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that was measured, and what follows from it."""

    columns: dict[Name, Column]
    advice: Advice
    facts: dict[str, Any]


Say = Callable[[str], None]


def run(job: Job, say: Say, report: Report, watch: finetune.Watch | None = None) -> Result:
    """Measure the four arms and write result.json, split.json and each arm's answers below `job.out`.

    :param say: told what is done next.
    :param report: told about the stages of the builds.
    :param watch: called after each step of the training.
    :raises DatasetError: the questions cannot be read, divided, or found in the documents.
    :raises EdgeError: a part of it failed.
    """
    split = data.divide(data.read(job.questions), job.held_out, job.seed)
    job.out.mkdir(parents=True, exist_ok=True)
    write_split(job.out / "split.json", split)
    say("building the model as it is")
    base, tuned = job.out / "base", job.out / "tuned"
    built = pipeline.run(job.recipe, base, report)
    say("indexing the documents")
    index = _index(job, base)
    with _box(job, base) as box:
        prompts = data.prompts(split.train, box, job.seed)
        update = updates.reindex(job.documents, box, job.out / "scratch", job.seed)

    questions = list(split.held_out)
    random.Random(job.seed).shuffle(questions)
    rows: dict[Name, list[Row]] = {}
    say(f"asking {len(questions)} questions")
    limit = ASKING_SHARE * job.budget_sec
    rows["rag"] = _ask(job, "rag", base, questions, limit)
    questions = questions[: len(rows["rag"])]
    rows["base"] = _ask(job, "base", base, questions)
    failed: str | None = None
    rebuilt = built
    try:
        rebuilt = _tune(job, prompts, tuned, say, report, watch)
    except GateError as error:
        failed = str(error)
    if not failed:
        say("asking the fine-tuned model")
        rows["both"] = _ask(job, "both", tuned, questions)
        rows["tuned"] = _ask(job, "tuned", tuned, questions)

    sizes = {"base": _bytes(base), "tuned": _bytes(tuned), "index": index.bytes}
    costs = costs_of(sizes, _seconds(built), _seconds(rebuilt), _seconds(rebuilt, built), index.seconds, update.seconds)
    columns = {name: column(rows[name], costs[name]) for name in NAMES if name in rows}
    training = Training(len({e.id for e in split.train if e.answers}), len(prompts.unfound), failed)
    advice = recommend(columns, differences(rows), job.wishes, training)
    facts = _facts(job, split, prompts, index, update)
    result = Result(columns, advice, facts)
    write_atomic(job.out / "result.json", json.dumps(as_plain(result), indent=1, ensure_ascii=False) + "\n")
    shutil.rmtree(job.out / "scratch", ignore_errors=True)
    return result


def as_plain(result: Result) -> dict[str, Any]:
    """The result as it is written: seconds, bytes, shares of 1."""
    return {"schema": SCHEMA, **asdict(result)}


def costs_of(
    sizes: dict[str, int], base_sec: float, tuned_sec: float, retrain_sec: float, index_sec: float, update_sec: float
) -> dict[Name, Cost]:
    """What each arm takes to make, to ship and to bring up to date.

    :param sizes: bytes of the bundles `base` and `tuned`, and of the `index`.
    :param base_sec: to build the bundle as it is.
    :param tuned_sec: to train, and to build the bundle of that.
    :param retrain_sec: the part of it that is spent again after documents changed.
    """
    both = sizes["tuned"] + sizes["index"]
    return {
        "base": Cost(base_sec, sizes["base"], None, 0),
        "rag": Cost(base_sec + index_sec, sizes["base"] + sizes["index"], update_sec, sizes["index"]),
        "tuned": Cost(tuned_sec, sizes["tuned"], retrain_sec, sizes["tuned"]),
        "both": Cost(tuned_sec + index_sec, both, retrain_sec + update_sec, both),
    }


@dataclass(frozen=True, slots=True)
class _Index:
    documents: int
    chunks: int
    seconds: float
    bytes: int


def _index(job: Job, model: Path) -> _Index:
    """A fresh index of the documents, timed.

    :raises DatasetError: none of them could be read.
    """
    path = job.out / "index.db"
    for file in (path, *path.parent.glob(f"{path.name}-*")):
        file.unlink(missing_ok=True)
    with _box(job, model) as box:
        found = ingest([job.documents], box.open_store(create=True), box.embedder, box.config.ingest)
    if not found.added:
        raise DatasetError(f"{job.documents}: no document in it could be read")
    return _Index(found.added, found.chunks, found.seconds, path.stat().st_size)


def _box(job: Job, model: Path) -> Box:
    return Box(model, job.out / "index.db", read_config(job.config))


def _ask(job: Job, name: Name, model: Path, questions: list[Example], limit_sec: float | None = None) -> list[Row]:
    arm = Arm(name, model, "rag" if name in ("rag", "both") else "model")
    return arms.ask(arm, questions, job.out / "index.db", job.out / "answers", job.config, limit_sec)


def _tune(
    job: Job, prompts: data.Prompts, out: Path, say: Say, report: Report, watch: finetune.Watch | None
) -> pipeline.BuildResult:
    """Train for the time that there is, and build the tuned bundle.

    :raises GateError: quantization loses too much of the tuned model.
    """
    path = job.out / "train.jsonl"
    data.write(path, prompts.examples)
    say("measuring how fast this machine trains")
    whole = FineTuneRecipe(data=DataRecipe((path,)), epochs=MOST_EPOCHS, seed=job.seed, **TUNING)
    steps = _affordable(job, whole, report)
    say(f"training {steps} steps" if steps else f"training {MOST_EPOCHS:g} epochs")
    recipe = _tuned_recipe(job.recipe, dataclasses.replace(whole, steps=steps))
    return pipeline.run(recipe, out, report, watch)


class _Known(Exception):
    """Enough steps were seen."""


def _affordable(job: Job, whole: FineTuneRecipe, report: Report) -> int:
    """Steps that fit into the time for training; 0: all that `whole` has. Measured once for the same data and time."""
    path = job.out / "steps.json"
    key = stages.digest_of(
        {"recipe": to_plain(whole) | {"data": sha256_file(whole.data.train[0])}, "sec": job.budget_sec}
    )
    with suppress(OSError, ValueError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return int(found["steps"])
    seen: list[tuple[float, int]] = []

    def watch(step: loop.Report) -> None:
        seen.append((time.monotonic(), step.steps))
        if len(seen) > _PROBE_STEPS:
            raise _Known

    build = Build(_tuned_recipe(job.recipe, whole), report)
    with suppress(_Known):
        build.tuned(build.base(), watch)
    steps = 0
    if len(seen) > 1:
        each = (seen[-1][0] - seen[0][0]) / (len(seen) - 1)  # the first step warms up
        within = max(1, int(TRAINING_SHARE * job.budget_sec / each))
        steps = within if within < seen[0][1] else 0
    write_atomic(path, json.dumps({"key": key, "steps": steps}))
    return steps


def _tuned_recipe(recipe: Recipe, tuning: FineTuneRecipe) -> Recipe:
    """Not compared with its parent: that is what the arms are for."""
    name = f"{recipe.name}-tuned"
    return dataclasses.replace(recipe, name=name, finetune=tuning, answers="marked", tuned_gate=None)


def _seconds(built: pipeline.BuildResult, but: pipeline.BuildResult | None = None) -> float:
    """What the stages took when they were built; without those that `but` has too."""
    shared = {stage.key for stage in but.stages} if but else set()
    return sum(stage.built_sec for stage in built.stages if stage.key not in shared)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _facts(job: Job, split: Split, prompts: data.Prompts, index: _Index, update: updates.Update) -> dict[str, Any]:
    return {
        "recipe": job.recipe.name,
        "budget_sec": job.budget_sec,
        "seed": job.seed,
        "documents": index.documents,
        "chunks": index.chunks,
        "index_sec": round(index.seconds, 2),
        "questions_trained_on": len(split.train),
        "questions_held_out": len(split.held_out),
        "training_prompts": len(prompts.examples),
        "unfound": list(prompts.unfound),
        "updated_documents": update.documents,
        "updated_sec": round(update.seconds, 2),
        "split_sha256": split.digest,
        "environment": environment(bundle.load(job.out / "base")),
    }
