"""The straight path of a search: measure fp32 and every candidate, time them in turns, pick one, confirm it. Read down.

A candidate that cannot be built or run is a row with the reason. What is measured is kept, so that a search that was
interrupted goes on, and one with another threshold measures nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.config import to_plain
from edge.errors import EdgeError
from optimize import trial
from optimize.dataset.examples import Example
from optimize.recipe import ModelRecipe
from optimize.search import front
from optimize.search.candidates import REFERENCE, SearchRecipe, expand, reference
from optimize.search.front import Pick, Point, Verdict
from optimize.search.questions import Questions
from optimize.search.workbench import Figures, Speed, Workbench
from optimize.trial import Asked

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One build: what it was made with, and its figures or why there are none."""

    name: str
    model: ModelRecipe
    figures: Figures | None = None
    summary: trial.Summary | None = None  # of the validation questions
    verdict: Verdict | None = None  # against fp32; None for fp32 itself
    speed: Speed | None = None
    failed: str | None = None  # why it has no figures


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The pick and fp32 on questions that the pick was not chosen by."""

    state: str  # confirmed, refuted, or inconclusive
    verdict: Verdict
    reference: trial.Summary
    pick: trial.Summary


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found; `to_plain` makes result.json of it."""

    recipe: str
    search: dict[str, Any]  # the thresholds that were searched with
    questions: dict[str, Any]  # see Questions.described
    rows: tuple[Row, ...]  # fp32 first
    front: tuple[str, ...]  # names, smallest first
    pick: Pick
    confirmation: Confirmation | None  # of the pick; None where nothing was picked
    judged_before: tuple[str, ...] = ()  # picks of earlier searches that the same test questions judged
    schema: int = SCHEMA

    @property
    def picked(self) -> Row | None:
        """The row of the pick."""
        return next((row for row in self.rows if row.name == self.pick.name), None)


def search(
    recipe_name: str,
    model: ModelRecipe,
    settings: SearchRecipe,
    questions: Questions,
    workbench: Workbench,
    *,
    only: Sequence[str] = (),
    allow_few: bool = False,
    on_candidate: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure, pick and confirm.

    :param model: the recipe's section; see `optimize.search.candidates.expand`.
    :param only: names of candidates; none: all.
    :param on_candidate: called with the name of each build before it is measured.
    :raises EdgeError: fp32 cannot be built or asked, or a candidate is none: see `expand`.
    """
    models = {REFERENCE: reference(model), **expand(settings.candidates, model, only)}
    rows: dict[str, Row] = {}
    asked: dict[str, list[Asked]] = {}
    for name, one in models.items():
        on_candidate(name)
        try:
            figures = workbench.figures(one)
            asked[name] = workbench.ask(one, questions.validation)
        except EdgeError as error:
            if name == REFERENCE:
                raise
            rows[name] = Row(name, one, failed=str(error))
            continue
        rows[name] = Row(name, one, figures, trial.summary(asked[name]))
    on_candidate("speed")
    speeds = workbench.speeds({name: models[name] for name in asked})
    verdicts = {name: _judged(asked[REFERENCE], asked[name], settings) for name in asked if name != REFERENCE}
    points = _points([rows[name] for name in verdicts])
    pick = front.pick(points, verdicts, allow_few=allow_few)
    confirmation = None
    if pick.name is not None:
        on_candidate("confirmation")
        confirmation = _confirmed(models, pick.name, questions.test, workbench, settings, allow_few)
    return Result(
        recipe=recipe_name,
        search={key: value for key, value in to_plain(settings).items() if key != "candidates"},
        questions=questions.described(),
        rows=tuple(_completed(row, verdicts, speeds) for row in rows.values()),
        front=tuple(front.pareto(points)),
        pick=pick,
        confirmation=confirmation,
    )


def _confirmed(
    models: Mapping[str, ModelRecipe],
    name: str,
    test: Sequence[Example],
    workbench: Workbench,
    settings: SearchRecipe,
    allow_few: bool,
) -> Confirmation:
    ours, theirs = workbench.ask(models[name], test), workbench.ask(models[REFERENCE], test)
    verdict = _judged(theirs, ours, settings)
    state = "inconclusive"
    if verdict.state == "loses":
        state = "refuted"
    elif verdict.state == "keeps" and (verdict.enough or allow_few):
        state = "confirmed"
    return Confirmation(state, verdict, reference=trial.summary(theirs), pick=trial.summary(ours))


def _judged(reference_answers: Sequence[Asked], answers: Sequence[Asked], settings: SearchRecipe) -> Verdict:
    """On questions that have an answer: refusing all others is no merit of a quantization."""
    sides = [[one.f1 for one in side if one.answerable] for side in (reference_answers, answers)]
    return front.judge(*sides, max_loss=settings.max_f1_loss, min_questions=settings.min_questions)


def _points(rows: Sequence[Row]) -> list[Point]:
    return [
        Point(row.name, row.figures.bytes, row.figures.private_bytes, row.summary.f1)
        for row in rows
        if row.figures is not None and row.summary is not None and row.summary.f1 is not None
    ]


def _completed(row: Row, verdicts: Mapping[str, Verdict], speeds: Mapping[str, Speed]) -> Row:
    return Row(
        row.name, row.model, row.figures, row.summary, verdicts.get(row.name), speeds.get(row.name), row.failed
    )  # fmt: skip
