"""`edge optimize score`: a bundle's answers to questions whose answers are known, alone or against another bundle's."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import UsageError

if TYPE_CHECKING:
    from optimize.dataset.examples import Example
    from optimize.trial import Asked, Summary

_PATH = click.Path(path_type=Path)
_ROWS = {
    "f1": "F1",
    "em": "exact match",
    "cited_right": "answers whose citation holds the answer",
    "abstention_precision": "abstentions that are right",
    "abstention_recall": "unanswerable questions not answered",
    "quoted": "answers quoted from a passage",
    "sec_p50": "seconds a question, median",
}


@click.command()
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--bundle", type=_PATH, help="Bundle that answers.  [default: bundle in the home folder]")
@click.option("--against", type=_PATH, help="Another bundle, which is asked the same.")
@click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the home folder]")
@click.option("--split", "split_file", type=_PATH, help="Ask only what this split of FILES holds out.")
@click.option("--document", "documents", multiple=True, help="Ask only about this document; repeatable.")
@click.option("--hide", type=click.FloatRange(0, 1, max_open=True), default=0.0,
              help="Share of the passages to leave out of the index: their questions have no answer.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most so many questions, drawn with --seed.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--answers", "answers_file", type=_PATH, help="Also write each answer to this file (JSONL).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def score(
    files: tuple[Path, ...], bundle: Path | None, against: Path | None, config: Path | None, split_file: Path | None,
    documents: tuple[str, ...], hide: float, limit: int | None, seed: int, answers_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask the questions of FILES over an index of all their passages, and compare the answers with those expected.

    FILES are training data of any kind: see `edge optimize data check`. F1 and exact match are of the questions that
    have an answer. With --against, the difference comes with its 95% interval (paired bootstrap over questions).
    """
    from optimize import dataset, trial

    everything: Sequence[Example] = dataset.read_all(files)
    chosen: Sequence[Example] = dataset.read_split(split_file, everything).held_out if split_file else everything
    if documents:
        if unknown := sorted(set(documents) - {example.document for example in chosen}):
            raise UsageError(f"no document is called {', '.join(unknown)}")
        chosen = [example for example in chosen if example.document in documents]
    if limit is not None and limit < len(chosen):
        chosen = random.Random(seed).sample(chosen, limit)
    everything, chosen = trial.hidden(everything, chosen, hide, seed)
    asked = {name: _ask(path, config, everything, chosen) for name, path in _sides(bundle, against).items()}
    result = _result(asked)
    if answers_file is not None:
        _write_answers(answers_file, chosen, asked)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result)


def _sides(bundle: Path | None, against: Path | None) -> dict[str, Path | None]:
    return {"bundle": bundle} if against is None else {"against": against, "bundle": bundle}


def _ask(
    bundle: Path | None, config: Path | None, everything: Sequence[Example], chosen: Sequence[Example]
) -> list[Asked]:
    from edge.box import Box
    from edge.cli.common import console
    from optimize import trial

    with Box.open(bundle=bundle, index=None, config=config) as box:
        from rich.progress import Progress

        with Progress(console=console(), transient=True, disable=not console().is_terminal) as progress:
            task = progress.add_task(f"asking {box.bundle_path.name}", total=len(chosen))
            return trial.ask(box, chosen, documents=everything, on_answer=lambda _: progress.advance(task))


def _result(asked: dict[str, list[Asked]]) -> dict[str, Any]:
    from dataclasses import asdict

    from optimize import scores, trial

    result: dict[str, Any] = {name: _figures(trial.summary(answers), answers) for name, answers in asked.items()}
    if "against" in asked:
        answerable = [number for number, one in enumerate(asked["bundle"]) if one.answerable]
        for key in ("f1", "em") if answerable else ():
            sides = [[getattr(asked[side][number], key) for number in answerable] for side in ("against", "bundle")]
            result[f"{key}_difference"] = asdict(scores.compare(*sides))
    return result


def _figures(found: Summary, asked: Sequence[Asked]) -> dict[str, Any]:
    from dataclasses import asdict
    from statistics import median

    figures = asdict(found) | {"sec_p50": median(one.seconds for one in asked)}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}


def _write_answers(path: Path, chosen: Sequence[Example], asked: dict[str, list[Asked]]) -> None:
    from dataclasses import asdict

    from edge.files import write_atomic

    lines = []
    for number, example in enumerate(chosen):
        row: dict[str, Any] = {"question": example.question, "accepted": list(example.answers)}
        row |= {name: asdict(answers[number]) for name, answers in asked.items()}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_atomic(path, "\n".join(lines) + "\n")


def _print(result: dict[str, Any]) -> None:
    sides = [name for name in ("against", "bundle") if name in result]
    click.echo(f"{result['bundle']['questions']} questions" + "".join(f"{name:>12}" for name in sides))
    for key, title in _ROWS.items():
        values = [result[name][key] for name in sides]
        if any(value is not None for value in values):
            click.echo(f"  {title:<40}" + "".join("           -" if v is None else f"{v:12.3f}" for v in values))
    for key, title in (("f1", "F1"), ("em", "exact match")):
        if found := result.get(f"{key}_difference"):
            click.echo(
                f"{title} differs by {found['difference']:+.3f}, 95% between {found['low']:+.3f} and "
                f"{found['high']:+.3f}, p = {found['p']:.4f}"
            )
