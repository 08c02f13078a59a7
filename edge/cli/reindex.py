"""`edge deploy reindex`, and what follows an installation of a release with another embedder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.common import json_option, memory_budget_option, print_json, print_note
from edge.files import home

if TYPE_CHECKING:
    from edge.deploy.reindex import Step

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--root", type=_PATH, help="Folder of the box.  [default: the home folder]")
@click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the folder of the box]")
@memory_budget_option
@json_option
def reindex(root: Path | None, config: Path | None, memory_budget: str | None, as_json: bool) -> int:
    """Make the index for the release that waits for one, and serve that release then.

    A daemon does this by itself. What is served goes on meanwhile; interrupted, the same command goes on.
    """
    from edge.deploy.links import waiting

    folder = root or home()
    if waiting(folder) is None:
        click.echo("no release waits for its index") if not as_json else print_json({"served": None})
        return 0
    served = make_index(folder, config, memory_budget, hidden=as_json)
    if as_json:
        print_json({"served": served})
    else:
        click.echo(f"{served} is served")
    return 0


def make_index(folder: Path, config: Path | None, memory_budget: str | None, *, hidden: bool) -> str:
    """Embed all documents for the release that waits, and serve it; returns its target.

    :raises EdgeError: it cannot be done; what is served is what was served.
    """
    from edge.cli.ingest import progress_bar
    from edge.deploy.host import ThisHost
    from edge.deploy.links import waiting
    from edge.deploy.reindex import advance, finish
    from edge.ingest.index import Progress

    settings = ThisHost(folder, config, memory_budget).settings
    with progress_bar(hidden=hidden) as show:

        def tell(step: Step) -> None:
            show(Progress("embedding anew", step.done, step.total, 0, 0.0))

        target = waiting(folder)
        while target is not None and waiting(folder) == target:
            advance(folder, settings, on_step=tell)
            done = finish(folder)
            if done is not None:
                for note in done[1]:
                    print_note(note)
    return target or ""


def tell_of_waiting(was_told: bool) -> None:
    """Say who makes the index for a release that waits."""
    if was_told:
        print_note("the daemon makes its index and serves it then: `edge deploy status` says how far it is")
    else:
        print_note("run `edge deploy reindex` to make its index and serve it")


def sentence(step: Step) -> str:
    """What `edge deploy status` says of a release that waits."""
    return f"{step.target}, once its index is made: {step.done} of {step.total} documents"
