"""What the commands share: the options that name a box, and the two ways to print."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from edge.box import Box
from edge.errors import UsageError
from edge.sizes import parse_size

if TYPE_CHECKING:
    from rich.console import Console

    from edge.config import EdgeConfig

P = ParamSpec("P")
R = TypeVar("R")

_PATH = click.Path(path_type=Path)


def with_box(command: Callable[Concatenate[Box, P], R]) -> Callable[P, R]:
    """Add `--bundle --index --config`; the command gets the box as its first argument, closed when it ends.

    `--memory-budget` and `--rerank` are the box's too, where their options stand above.
    """

    @click.option("--bundle", type=_PATH, help="Folder of the bundle.  [default: current or bundle in the home folder]")
    @click.option("--index", type=_PATH, help="File of the index.  [default: index.db in the home folder]")
    @click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the home folder]")
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        settings: dict[str, Any] = {name: kwargs.pop(name) for name in ("bundle", "index", "config")}
        settings["memory_budget"] = kwargs.pop("memory_budget", None)
        rerank = kwargs.pop("rerank", None)
        with Box.open(**settings, on_note=print_note) as box:
            if isinstance(rerank, bool):
                box.config = _reranking(box.config, rerank)
            return command(box, *args, **kwargs)

    return wrapped


def _checked_size(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else str(parse_size(value))
    except ValueError as error:
        raise UsageError(f"--memory-budget: {error}") from None


memory_budget_option = click.option(
    "--memory-budget",
    metavar="SIZE",
    callback=_checked_size,
    help="Memory that this command and the processes it starts may take, such as 256MiB.  "
    "[default: memory_budget of the configuration, else what the system allows]",
)


def _reranking(config: EdgeConfig, enabled: bool) -> EdgeConfig:
    rerank = dataclasses.replace(config.retrieve.rerank, enabled=enabled)
    return dataclasses.replace(config, retrieve=dataclasses.replace(config.retrieve, rerank=rerank))


rerank_option = click.option(
    "--rerank/--no-rerank",
    default=None,
    help="Whether the bundle's cross-encoder puts the best hits in order.  [default: retrieve.rerank.enabled]",
)

adapter_option = click.option(
    "--adapter", metavar="NAME", help="An adapter of the bundle, to answer with.  [default: none]"
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    text = json.dumps(value, ensure_ascii=False)
    click.echo(text.encode("utf-8", "backslashreplace"))  # names of files may hold bytes that are no UTF-8


def print_error(message: str, kind: str, exit_code: int) -> None:
    """The error for a person on stderr; with `--json` also as an object on stdout."""
    click.echo(f"edge: {message}", err=True)
    if "--json" in sys.argv[1:]:
        print_json({"error": message, "kind": kind, "exit_code": exit_code})


def print_note(message: str) -> None:
    """What a person should know though nothing failed, on stderr."""
    click.echo(f"edge: note: {message}", err=True)


def console() -> Console:
    """The terminal for progress and prose on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def short(source: str) -> str:
    """A document's path as a person here would write it: relative to the working folder where that is shorter."""
    path, mark, table = source.partition("#")
    relative = os.path.relpath(path)
    return (relative if len(relative) < len(path) else path) + mark + table


def human_bytes(count: float) -> str:
    """Bytes in the largest binary unit that keeps the number at 1 or above."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
