"""`edge ingest`: bring the index up to date with files and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.box import Box
from edge.cli.common import console, json_option, memory_budget_option, print_json, short, with_box

if TYPE_CHECKING:
    from edge.ingest.index import IngestReport, Progress

SHOWN = 20  # failed or skipped files listed one by one


@click.command()
@click.argument("names", metavar="PATHS...", nargs=-1, required=True)
@click.option("--prune", is_flag=True, help="Remove documents under PATHS whose file is gone.")
@click.option("--language", metavar="CODE", help="ISO 639-1 code of all of them.  [default: detected for each]")
@click.option("--tag", "tags", multiple=True, help="Mark the documents, for `--filter tag=...`; repeatable.")
@click.option("--summaries", is_flag=True, help="Add an extractive summary of each document as an entry of its own.")
@memory_budget_option
@json_option
@with_box
def ingest(
    box: Box,
    names: tuple[str, ...],
    prune: bool,
    language: str | None,
    tags: tuple[str, ...],
    summaries: bool,
    as_json: bool,
) -> int:
    """Read files and folders into the index.

    txt, md, html, pdf, docx, xlsx, pptx, csv, json, jsonl, and the tables of SQLite databases. Unchanged files are
    skipped, changed ones replaced. Stopping it loses nothing: the next run goes on.
    """
    from edge.errors import UsageError
    from edge.ingest.index import ingest as run

    if not all(names):
        raise UsageError("a path is empty: it would mean this folder; write . for that")
    settings = box.ingest_config()
    store = box.open_store(create=True)
    with progress_bar(hidden=as_json) as on_progress:
        report = run(
            [Path(name) for name in names],
            store,
            box.embedder,
            settings,
            prune=prune,
            language=language,
            tags=tags,
            summaries=summaries,
            on_progress=on_progress,
        )
    if as_json:
        print_json(asdict(report))
    else:
        print_report(report)
    return 1 if report.failed else 0


def print_report(report: IngestReport) -> None:
    """What was done, and each failure with its reason."""
    counts = ("added", "replaced", "unchanged", "removed")
    parts = [f"{getattr(report, name)} {name}" for name in counts if getattr(report, name)]
    rate = f" at {report.chunks_per_sec:.0f}/s" if report.chunks else ""
    click.echo(f"{', '.join(parts) or 'nothing to do'}; {report.chunks} chunks{rate}, {report.seconds:.1f} s")
    for source, reason in report.failed[:SHOWN]:
        click.echo(f"  failed: {reason if source in reason else f'{short(source)}: {reason}'}", err=True)
    if len(report.failed) > SHOWN:
        click.echo(f"  and {len(report.failed) - SHOWN} more failed; see --json", err=True)
    if report.skipped:
        names = ", ".join(short(source) for source in report.skipped[:SHOWN])
        click.echo(
            f"  skipped, no reader for this kind of file: {names}{' …' * (len(report.skipped) > SHOWN)}", err=True
        )


@contextmanager
def progress_bar(*, hidden: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr that shows the document, and the rate of embedding; nothing where `hidden` or no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = ("[progress.description]{task.description}", "{task.fields[rate]}")
    bar = Bar(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), *(TextColumn(column) for column in columns),
        console=console(), disable=hidden or not console().is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None, rate="")

        def show(state: Progress) -> None:
            name = Path(state.source).name.replace("[", r"\[")
            rate = f"{state.chunks} chunks, {state.chunks_per_sec:.0f}/s" if state.chunks else ""
            bar.update(task, total=state.total, completed=state.done, description=name, rate=rate)

        yield show
