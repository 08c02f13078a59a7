"""The figures of one build, each measured once and kept as a stage: a second search goes on where the first ended.

`Workbench` is what `optimize.search.run` needs, `PipelineWorkbench` measures with the real tools.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import edge.answer
import edge.box
import edge.cite
import edge.embed
import edge.engine.genai
import edge.ingest.chunk
import edge.lexical
import edge.prompt
import edge.retrieve
import edge.sentences
from edge import bundle, machine
from edge.box import Box
from edge.config import EdgeConfig, to_plain
from edge.errors import EdgeError
from edge.files import write_atomic
from optimize import child, finetune, manifest, quantize, scores, trial
from optimize.build import Build, Report
from optimize.dataset.examples import Example
from optimize.evaluate import GateResult
from optimize.recipe import ModelRecipe, Recipe
from optimize.search import speed
from optimize.search.candidates import SpeedRecipe
from optimize.stages import Stage, code, digest_of, run_stage, tools
from optimize.trial import Asked

_ANSWERING = (
    edge.answer, edge.box, edge.cite, edge.embed, edge.engine.genai, edge.ingest.chunk, edge.lexical, edge.prompt,
    edge.retrieve, edge.sentences, scores, trial,
)  # fmt: skip
_SPEED_TOOLS = ("onnxruntime", "onnxruntime-genai")
_ANSWER_TOOLS = (*_SPEED_TOOLS, "tokenizers", "sqlite-vec", "apsw")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a build takes, and how far it is from its parent."""

    bytes: int  # of the model's folder
    private_bytes: int  # of memory after loading, that no file backs
    gate: GateResult


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over rounds; tokens per second, and the largest resident set of a round in bytes."""

    prefill_tok_per_sec: float
    decode_tok_per_sec: float
    rss_peak_bytes: int


@dataclass(frozen=True, slots=True)
class _Built:
    build: Build
    stage: Stage
    gate: GateResult
    memory: bundle.Memory


class Workbench(Protocol):
    """Measures builds of one model. Each method raises EdgeError where a build cannot be made or run."""

    def figures(self, model: ModelRecipe) -> Figures:
        """Build it, and measure what needs no questions."""

    def ask(self, model: ModelRecipe, examples: Sequence[Example]) -> list[Asked]:
        """What it answers, in the order of the questions."""

    def speeds(self, models: Mapping[str, ModelRecipe]) -> dict[str, Speed]:
        """Rates of all of them, measured in turns."""


class PipelineWorkbench:
    """Builds by `optimize.pipeline`, asks as `edge ask` does, measures in fresh processes.

    :param gate_tokens: positions that the gate compares, at least.
    :param passages: examples whose passages are searched.
    :param report: called when a stage begins and ends, with its name and "running", "built", "cached" or "failed".
    :param on_answer: called after each answer with how many of how many there are.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        gate_tokens: int,
        passages: Sequence[Example],
        config: EdgeConfig,
        speed: SpeedRecipe,
        report: Report,
        watch: finetune.Watch | None = None,
        on_answer: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        child.quiet()
        gate = dataclasses.replace(recipe.gate, tokens=max(recipe.gate.tokens, gate_tokens))
        self._recipe = dataclasses.replace(recipe, gate=gate)
        self._passages, self._speed, self._on_answer = passages, speed, on_answer
        self._report, self._running = report, ""
        self._known: dict[str, _Built] = {}
        # the copy of the weights for this CPU gives the same answers, and would fill the cache with one for each build
        self._config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, prepare=False))
        build = Build(self._recipe, self._told)
        base = build.base()
        quantize.check_fits(base.path, recipe.model)
        self._parent = build.tuned(base, watch)
        self._embedder = build.embedder()

    def figures(self, model: ModelRecipe) -> Figures:
        built = self._built(model)
        return Figures(_size(built.stage), built.memory.model_private_bytes, built.gate)

    def ask(self, model: ModelRecipe, examples: Sequence[Example]) -> list[Asked]:
        built = self._built(model)
        reads = {
            "model": built.stage.digest,
            "embedder": self._embedder.digest,
            "answers": self._recipe.answers,
            "languages": self._recipe.languages,
            "questions": _digest(examples),
            "passages": _digest(self._passages),
            "config": to_plain(self._config),
            "tools": tools(*_ANSWER_TOOLS),
            "code": code(*_ANSWERING),
        }

        def work(out: Path) -> None:
            scratch = out / ".scratch"
            gate = {"model": to_plain(built.gate)}
            manifest.pack(built.build, built.stage, self._embedder, built.memory, gate, scratch / "bundle")
            asked = self._answers(scratch, examples)
            shutil.rmtree(scratch)
            write_atomic(out / "answers.json", json.dumps([to_plain(one) for one in asked]))

        with self._explained():
            done = built.build.stage("answers", reads, work, needed_bytes=2 * _size(built.stage))
        found = json.loads((done.path / "answers.json").read_text(encoding="utf-8"))
        return [Asked(**one) for one in found]

    def speeds(self, models: Mapping[str, ModelRecipe]) -> dict[str, Speed]:
        """Kept for this very set of builds: rates of different times do not compare."""
        stages = {name: self._built(model).stage for name, model in models.items()}
        reads = {
            "models": {name: stage.digest for name, stage in stages.items()},
            "shape": to_plain(self._speed),
            "cores": machine.cores(),
            "tools": tools(*_SPEED_TOOLS),
            "code": code(speed),
        }

        def work(out: Path) -> None:
            runs = self._rounds({name: stage.path for name, stage in stages.items()}, out / ".scratch", reads)
            write_atomic(out / "runs.json", json.dumps(runs))

        self._told("speed", "running")
        with self._explained():
            done = run_stage("speed", reads, work)
        self._told("speed", "cached" if done.cached else "built")
        runs = json.loads((done.path / "runs.json").read_text(encoding="utf-8"))
        return {name: medians(several) for name, several in runs.items()}

    def _built(self, model: ModelRecipe) -> _Built:
        key = digest_of(model)
        if key not in self._known:
            quantize.check_fits(self._parent.path, model)
            build = Build(dataclasses.replace(self._recipe, model=model), self._told)
            with self._explained():
                stage = build.model(self._parent, model)
                gate = build.gate(self._parent, stage)
                self._known[key] = _Built(build, stage, gate, build.memory(stage, self._embedder))
        return self._known[key]

    def _told(self, stage: str, state: str) -> None:
        self._running = stage if state == "running" else ""
        self._report(stage, state)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Report a stage that fails as ended."""
        try:
            yield
        except EdgeError:
            if self._running:
                self._told(self._running, "failed")
            raise

    def _answers(self, scratch: Path, examples: Sequence[Example]) -> list[Asked]:
        count = 0

        def counted(_: Asked) -> None:
            nonlocal count
            count += 1
            self._on_answer(count, len(examples))

        with Box(scratch / "bundle", scratch / "index.db", self._config) as box:
            return trial.ask(box, examples, documents=self._passages, on_answer=counted)

    def _rounds(self, folders: Mapping[str, Path], scratch: Path, reads: Any) -> dict[str, list[dict[str, float]]]:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
        scratch.mkdir()
        result, shape = scratch / "speed.json", [str(self._speed.prompt_tokens), str(self._speed.new_tokens)]
        for _ in range(self._speed.rounds):
            for name, folder in folders.items():
                arguments = [str(folder), *shape, str(result)]
                what = f"Measuring the speed of {name!r}"
                child.run("optimize.search.speed", arguments, what, f"speed-{digest_of(reads)[:12]}", scratch)
                runs[name].append(json.loads(result.read_text(encoding="utf-8")))
        shutil.rmtree(scratch)
        return runs


def medians(runs: Sequence[Mapping[str, float]]) -> Speed:
    """Of several rounds of one build."""
    return Speed(
        prefill_tok_per_sec=statistics.median(run["prefill_tok_per_sec"] for run in runs),
        decode_tok_per_sec=statistics.median(run["decode_tok_per_sec"] for run in runs),
        rss_peak_bytes=int(max(run["rss_peak_bytes"] for run in runs)),
    )


def _digest(examples: Sequence[Example]) -> str:
    """Of contents in their order, wherever they were read."""
    return digest_of([to_plain(dataclasses.replace(one, origin="")) for one in examples])


def _size(stage: Stage) -> int:
    return sum((stage.path / name).stat().st_size for name in stage.files)
