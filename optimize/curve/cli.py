"""`edge optimize curve`: would more training data help?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("recipe")
@click.option("--out", type=_PATH, help="Folder for curve.json and curve.svg.")
@click.option("--points", type=click.IntRange(3, 8), default=4, show_default=True,
              help="Sizes, each twice the one before: 4 are 1/8 to all. From 5 on, a floor is fitted.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order in which documents are taken.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def curve(recipe: str, out: Path | None, points: int, seed: int, as_json: bool) -> None:
    """Train the section `finetune` of RECIPE on parts of its documents, and say whether more data would help.

    RECIPE is a YAML file or the name of a shipped recipe; its data must hold documents out. Every part is trained for
    as many steps as the recipe takes on all of the data, which is so long for each, unless its held-out loss stops
    falling before. What is finished is kept: the same command goes on. Exit codes: 0 measured, 1 error, 2 usage.
    """
    from rich.console import Console

    from edge.config import to_plain
    from optimize import child
    from optimize.cli import check_installed, progress
    from optimize.finetune_cli import losses_shown
    from optimize.recipe import load_recipe

    loaded = load_recipe(recipe)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    check_installed()
    child.quiet()
    from optimize.build import Build
    from optimize.curve import report as shown
    from optimize.curve import run as runs

    try:
        with progress() as report, losses_shown() as watch:
            build = Build(loaded, report)
            made = runs.run(build, points, seed, watch, lambda text: click.echo(text, err=True))
    except KeyboardInterrupt:
        click.echo("the parts that are finished are kept: the same command goes on from here", err=True)
        raise
    written = shown.write(made, out) if out is not None else []
    if as_json:
        click.echo(json.dumps(to_plain(made)))
        return
    console = Console(highlight=False)
    console.print(shown.table(made))
    for line in (shown.LEGEND, *shown.lines(made), *(str(path) for path in written)):
        console.print(line, markup=False, soft_wrap=True)
