"""`edge optimize finetune`: data in, adapter out, with the losses on the way."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import BuildError

if TYPE_CHECKING:
    from optimize.training.loop import Report

_LINE_SEC = 10.0
"""Where there is no terminal, a line as often as that."""


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write the adapter to.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def finetune(recipe: str, out: Path, as_json: bool) -> None:
    """Train the adapter that the section `finetune` of RECIPE describes: a YAML file, or a shipped recipe's name.

    Nothing is merged, quantized or packaged; `edge optimize run RECIPE` does that too. A build that was interrupted or
    killed goes on from its last checkpoint. Exit codes: 0 trained, 1 error, 2 usage.
    """
    from optimize import child
    from optimize.build import Build
    from optimize.cli import check_installed, progress
    from optimize.finetune import CARD
    from optimize.recipe import load_recipe

    check_installed()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CARD).is_file())):
        raise BuildError(f"{out} holds something that is no adapter: give --out a new folder")
    child.quiet()
    with progress() as report, losses_shown() as watch:
        build = Build(load_recipe(recipe), report)
        stage = build.adapter(build.base(), watch)
        _copy(stage.path, stage.files, out)
    card, losses = (json.loads((out / name).read_text(encoding="utf-8")) for name in (CARD, "losses.json"))
    if as_json:
        click.echo(json.dumps(_summary(out, card, losses, stage.files, stage.cached)))
        return
    click.echo(str(out))
    click.echo(f"  {card['samples']['train']} samples, {losses['steps']} steps, {_loss_line(losses)}")
    if left_out := card["samples"]["left_out"]:
        click.echo(f"  {len(left_out)} left out, longer than finetune.max_tokens: {', '.join(left_out[:5])}", err=True)


@contextmanager
def losses_shown() -> Iterator[Callable[[Report], None]]:
    """Show steps on stderr: each on a terminal, in place; every few seconds elsewhere; held-out losses always."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    shown_at = 0.0

    def watch(report: Report) -> None:
        nonlocal shown_at
        line = step_line(report)
        now = time.monotonic()
        if report.held_out_loss is not None or report.step in (1, report.steps) or now - shown_at >= _LINE_SEC:
            console.print(line, markup=False, soft_wrap=True)
            shown_at = now

    yield watch


def step_line(report: Report) -> str:
    """One step as a line of text."""
    held_out = f"  held out {report.held_out_loss:.4f}" if report.held_out_loss is not None else ""
    minutes, seconds = divmod(round(report.left_sec), 60)
    return (
        f"  step {report.step}/{report.steps}  loss {report.loss:.4f}{held_out}  "
        f"{report.completions_per_sec:.1f} answers/s, {report.tokens_per_sec:.0f} tok/s  {minutes}:{seconds:02d} left"
    )


def _copy(stage: Path, files: dict[str, str], out: Path) -> None:
    """Make `out` the stage's files, and nothing else: beside it first, then by rename."""
    from optimize import disk

    fresh, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with disk.explained(out):
        fresh.mkdir(parents=True)
        for name in files:
            shutil.copyfile(stage / name, fresh / name)
        if out.exists():
            out.replace(old)
        fresh.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def _loss_line(losses: dict[str, Any]) -> str:
    last = f"last loss {losses['train_nats'][-1][1]:.4f} nats" if losses["train_nats"] else "losses not recorded"
    if losses["held_out_nats"]:
        best = min(losses["held_out_nats"], key=lambda pair: pair[1])
        last += f", lowest held-out loss {best[1]:.4f} after step {best[0]}"
    return last


def _summary(
    out: Path, card: dict[str, Any], losses: dict[str, Any], files: dict[str, str], cached: bool
) -> dict[str, Any]:
    from optimize.finetune import ADAPTER

    return {"path": str(out), "cached": cached, "sha256": files[ADAPTER], "card": card, "losses": losses}
