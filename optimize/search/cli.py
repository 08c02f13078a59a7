"""`edge optimize search`: which quantization of a model is the smallest that answers as well as fp32?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.errors import UsageError

if TYPE_CHECKING:
    from optimize.recipe import Recipe
    from optimize.search.candidates import SearchRecipe
    from optimize.search.questions import Questions
    from optimize.search.run import Result

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("recipe", required=False)
@click.option("--questions", "files", multiple=True, required=True, type=_PATH,
              help="Questions with answers: JSONL, SQuAD or CSV; repeatable.")  # fmt: skip
@click.option("--split", "split_file", type=_PATH, help="Ask only what this split of the questions holds out.")
@click.option("--test", "test_files", multiple=True, type=_PATH,
              help="Questions to confirm the pick with.  [default: a share of those held out]")  # fmt: skip
@click.option("--search", "search_file", type=_PATH, help="What to try (YAML).  [default: the list that is shipped]")
@click.option("--only", multiple=True, metavar="NAME", help="Try only this candidate, and fp32; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most so many questions on each side, drawn by seed.")
@click.option("--allow-few", is_flag=True, help="Pick even where there are fewer questions than min_questions.")
@click.option("--config", type=_PATH, help="Configuration of the box (YAML).  [default: that of the home folder]")
@click.option("--out", type=_PATH, help="Folder for result.json, recipe.yaml of the pick, front.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
@click.pass_context
def search(
    context: click.Context, recipe: str | None, files: tuple[Path, ...], split_file: Path | None,
    test_files: tuple[Path, ...], search_file: Path | None, only: tuple[str, ...], limit: int | None,
    allow_few: bool, config: Path | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare quantizations of RECIPE's model, tuned where it says so, and pick the smallest that keeps F1.

    RECIPE is a YAML file or the name of a shipped recipe. Every candidate is built, compared with its fp32 parent over
    the gate's text, weighed, timed, and asked the questions as `edge ask` answers them. Picked is the smallest whose F1
    is not worse than fp32 by more than `max_f1_loss`, by the lower end of the 95% interval (paired bootstrap); it is
    then confirmed once on documents that it was not chosen by. What is measured is kept: the same command goes on.

    Exit codes: 0 picked and confirmed, 1 error, 2 usage, 4 nothing picked, or not confirmed.
    """
    from optimize.cli import check_installed
    from optimize.recipe import load_recipe
    from optimize.search.candidates import expand, load_search
    from optimize.shipped import DEFAULT

    loaded, settings = load_recipe(recipe or DEFAULT), load_search(search_file)
    expand(settings.candidates, loaded.model, only)
    _check_room(loaded, settings)
    check_installed()
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    questions = _questions(files, split_file, test_files, settings, limit)
    _warn_if_trained_on(loaded, questions)
    try:
        result = _searched(loaded, settings, questions, config, only, allow_few)
    except KeyboardInterrupt:
        click.echo("what is measured is kept: the same command goes on from here", err=True)
        raise
    result = _finish(result, loaded, out, as_json)
    if result.confirmation is None or result.confirmation.state != "confirmed":
        context.exit(4)


def _questions(
    files: tuple[Path, ...], split_file: Path | None, test_files: tuple[Path, ...], settings: SearchRecipe,
    limit: int | None,
) -> Questions:  # fmt: skip
    from optimize import dataset
    from optimize.search.questions import divide

    everything = dataset.read_all(files)
    held_out = dataset.read_split(split_file, everything).held_out if split_file else everything
    test = dataset.read_all(test_files) if test_files else None
    return divide(everything, held_out, test, share=settings.test_share, seed=settings.seed, limit=limit)


def _searched(
    recipe: Recipe, settings: SearchRecipe, questions: Questions, config: Path | None, only: tuple[str, ...],
    allow_few: bool,
) -> Result:  # fmt: skip
    from edge.box import read_config
    from optimize.cli import progress
    from optimize.finetune_cli import losses_shown
    from optimize.search import run
    from optimize.search.workbench import PipelineWorkbench

    with progress() as report, losses_shown() as watch:
        workbench = PipelineWorkbench(
            recipe,
            gate_tokens=settings.gate_tokens,
            passages=questions.passages,
            config=read_config(config),
            speed=settings.speed,
            report=report,
            watch=watch,
            on_answer=lambda done, count: report(f"answers, {done} of {count}", "running"),
        )
        return run.search(
            recipe.name, recipe.model, settings, questions, workbench, only=only, allow_few=allow_few,
            on_candidate=lambda name: click.echo(name, err=True),
        )  # fmt: skip


def _finish(result: Result, recipe: Recipe, out: Path | None, as_json: bool) -> Result:
    """Write and print."""
    from rich.console import Console

    from edge.config import to_plain
    from optimize.search import report

    before = report.earlier_picks(out, result.questions["test"]["sha256"])
    result = dataclasses.replace(result, judged_before=tuple(name for name in before if name != result.pick.name))
    written = report.write(result, recipe, out) if out is not None else []
    if as_json:
        click.echo(json.dumps(to_plain(result)))
        return result
    console = Console(highlight=False)
    console.print(report.table(result))
    for line in (report.LEGEND, *report.lines(result), *(str(path) for path in written)):
        console.print(line, markup=False, soft_wrap=True)
    return result


def _check_room(recipe: Recipe, settings: SearchRecipe) -> None:
    """:raises UsageError: what the speed is measured with does not fit the context."""
    wanted = settings.speed.prompt_tokens + settings.speed.new_tokens
    if wanted > recipe.model.context_tokens:
        raise UsageError(
            f"speed.prompt_tokens and speed.new_tokens are {wanted} together; the recipe's context_tokens are "
            f"{recipe.model.context_tokens}: make one of them smaller in the file of --search"
        )


def _warn_if_trained_on(recipe: Recipe, questions: Questions) -> None:
    from optimize import finetune
    from optimize.search.questions import trained_on

    if recipe.finetune is None:
        return
    train, _ = finetune.read_samples(recipe.finetune.data)
    if both := trained_on([*questions.validation, *questions.test], [one.document for one in train]):
        click.echo(
            f"edge: note: {len(both)} documents that are asked about were trained on ({', '.join(both[:3])}): F1 is "
            "higher on those than on others. Hold them out with --split",
            err=True,
        )
