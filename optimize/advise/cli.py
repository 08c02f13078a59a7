"""`edge advise`: RAG, fine-tuning, both or neither, measured on a user's own documents and questions."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import get_args

import click

from edge.errors import UsageError
from edge.files import home, write_atomic
from optimize.advise.recommend import Changes

_PATH = click.Path(path_type=Path)
_UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(_context: click.Context, _option: click.Parameter, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)
    if not found or not float(found[1]):
        raise UsageError(f"--time-budget: {value!r} is no time: write 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


@click.command()
@click.option("--documents", required=True, type=click.Path(path_type=Path, exists=True), help="File or folder.")
@click.option("--questions", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help='A file of {"question", "answer", "document"} lines; "answer" may be null.')  # fmt: skip
@click.option("--time-budget", default="30m", show_default=True, callback=_seconds, metavar="TIME",
              help="For training and asking, as 90s, 30m or 2h; building the base comes on top.")  # fmt: skip
@click.option("--changes", type=click.Choice(get_args(Changes)), default="monthly", show_default=True,
              help="How often the documents change.")  # fmt: skip
@click.option("--sources/--no-sources", default=True, show_default=True,
              help="Whether answers must show where they come from.")  # fmt: skip
@click.option("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.3, show_default=True,
              help="Share of the documents whose questions are asked; the others are trained on.")  # fmt: skip
@click.option("--recipe", help="Recipe of the model: a YAML file or a shipped one's name.  [default: the default one]")
@click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the home folder]")
@click.option("--out", type=_PATH, help="Folder for all that is made.  [default: advise in the home folder]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def advise(
    documents: Path, questions: Path, time_budget: float, changes: Changes, sources: bool, held_out: float,
    recipe: str | None, config: Path | None, out: Path | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure which a set of documents needs: RAG, fine-tuning, both or neither.

    Four ways to answer are asked the same held-out questions: the model as it is and a fine-tuned one, each with and
    without the documents at hand. Writes result.json, report.html and the tuned bundle. Run again, it goes on where it
    was.
    """
    from optimize.cli import check_installed, progress

    check_installed()
    from optimize.advise import report, run
    from optimize.advise.recommend import Wishes
    from optimize.finetune_cli import losses_shown
    from optimize.recipe import load_recipe
    from optimize.shipped import DEFAULT

    folder = out or home() / "advise"
    job = run.Job(
        documents, questions, load_recipe(recipe or DEFAULT), folder, Wishes(changes, sources), time_budget, held_out,
        config, seed,
    )  # fmt: skip
    with progress() as stages, losses_shown() as watch:
        result = run.run(job, lambda text: click.echo(f"{text} ...", err=True), stages, watch)
    if importlib.util.find_spec("matplotlib") is not None:
        write_atomic(folder / "report.html", report.page(result))
    if as_json:
        click.echo(json.dumps(run.as_plain(result), ensure_ascii=False))
        return
    for line in report.lines(result):
        click.echo(line)
    click.echo(f"\nEverything measured is in {folder}")
