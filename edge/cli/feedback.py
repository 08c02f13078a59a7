"""`edge feedback`: what was asked and answered, kept on this box, rated, exported, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.common import json_option, print_json
from edge.errors import StoreMissing, UsageError

if TYPE_CHECKING:
    from edge.feedback import Feedback, Thumb

_file_option = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="File of the feedback.  [default: feedback.db in the home folder]",
)


def _correction_options(command: Callable[..., int]) -> Callable[..., int]:
    command = click.option("--no-answer", is_flag=True, help="It should have said that the documents hold no answer.")(
        command
    )
    return click.option("--correction", metavar="TEXT", help="What it should have said.")(command)


@click.group()
def feedback() -> None:
    """Rate answers, on this box alone (`feedback: enabled: true` in the configuration lets `edge ask` keep them)."""


@feedback.command()
@click.option("--question", required=True, metavar="TEXT")
@click.option("--answer", required=True, metavar="TEXT")
@click.option("--thumb", required=True, type=click.Choice(["up", "down"]))
@_correction_options
@_file_option
@json_option
def add(
    question: str,
    answer: str,
    thumb: Thumb,
    correction: str | None,
    no_answer: bool,
    path: Path | None,
    as_json: bool,
) -> int:
    """Keep a question and an answer of your own, rated. They are kept without passages."""
    from edge import feedback as kept

    id = kept.add(path or kept.default_path(), question, answer, thumb, _corrected(correction, no_answer))
    _say({"feedback_id": id}, f"kept as {id}", as_json)
    return 0


@feedback.command()
@click.argument("id", type=int)
@click.argument("thumb", type=click.Choice(["up", "down"]))
@_correction_options
@_file_option
@json_option
def rate(id: int, thumb: Thumb, correction: str | None, no_answer: bool, path: Path | None, as_json: bool) -> int:
    """Rate the answer ID that `edge ask` kept; a second rating replaces the first."""
    from edge import feedback as kept

    kept.rate(path or kept.default_path(), id, thumb, _corrected(correction, no_answer))
    _say({"feedback_id": id, "thumb": thumb}, f"{id} rated {thumb}", as_json)
    return 0


@feedback.command(name="list")
@click.option("--rated", is_flag=True, help="Only what has a thumb.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The last so many.")
@_file_option
@json_option
def list_(rated: bool, limit: int, path: Path | None, as_json: bool) -> int:
    """Show what is kept, the newest last."""
    rows = _read(path, rated, limit)
    if as_json:
        print_json({"feedback": [asdict(row) for row in rows]})
        return 0
    if not rows:
        click.echo("nothing is kept")
    for row in rows:
        click.echo(f"{row.id:>5}  {row.asked[:16]}  {row.thumb or '-':<4}  {_line(row.question)}")
        click.echo(f"{'':31}{_line(row.answer)}")
        if row.correction is not None:
            click.echo(f"{'':31}should be: {_line(row.correction) or '(no answer)'}")
    return 0


@feedback.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rated", is_flag=True, help="Only what has a thumb.")
@_file_option
@json_option
def export(out: Path, rated: bool, path: Path | None, as_json: bool) -> int:
    """Write what is kept to OUT as JSON lines, to be carried to the workstation or to be read."""
    from edge.files import write_atomic

    rows = _read(path, rated, None)
    try:
        write_atomic(out, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from None
    _say({"path": str(out), "rows": len(rows)}, f"{len(rows)} rows written to {out}", as_json)
    return 0


@feedback.command()
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Delete everything that is kept.")
@_file_option
@json_option
def delete(ids: tuple[int, ...], everything: bool, path: Path | None, as_json: bool) -> int:
    """Delete rows by ID, or with --all all of them: their text is overwritten in the file too."""
    from edge import feedback as kept

    if bool(ids) == everything:
        raise UsageError("say what to delete: ids, or --all")
    file = path or kept.default_path()
    count = 0 if everything and not file.exists() else kept.delete(file, None if everything else ids)
    if count < len(set(ids)):
        raise UsageError(f"{count} deleted; {len(set(ids)) - count} of the ids are not kept: see `edge feedback list`")
    _say({"deleted": count}, f"{count} deleted", as_json)
    return 0


def _corrected(correction: str | None, no_answer: bool) -> str | None:
    if no_answer and correction is not None:
        raise UsageError("give either --correction or --no-answer")
    if correction is not None and not correction.strip():
        raise UsageError("--correction is empty; where the documents hold no answer, give --no-answer")
    return "" if no_answer else correction


def _read(path: Path | None, rated: bool, limit: int | None) -> list[Feedback]:
    from edge import feedback as kept

    try:
        return kept.read(path or kept.default_path(), rated=rated, limit=limit)
    except StoreMissing:
        if path is not None:
            raise
        return []


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else line[:89] + "…"


def _say(result: dict[str, object], sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        click.echo(sentence)
