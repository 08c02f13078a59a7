"""`edge optimize data`: check training data, split them, make them from feedback or from documents, review them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.errors import DatasetError, EdgeError, UsageError
from edge.files import home, write_atomic

if TYPE_CHECKING:
    from optimize.dataset.examples import Example
    from optimize.dataset.lengths import Measure

_PATH = click.Path(path_type=Path)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")


@click.group()
def data() -> None:
    """Training data: check and split them, make them from feedback or from documents."""


@data.command()
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--held-out", "held_out", multiple=True, type=_PATH,
              help="File of held-out examples that training must not have seen; repeatable.")  # fmt: skip
@click.option("--split", "split_file", type=_PATH, help="Split of FILES, as `edge optimize data split` wrote it.")
@click.option("--bundle", type=_PATH, help="Bundle whose tokenizer counts.  [default: bundle in the home folder]")
@click.option("--tokenizer", type=_PATH, help="Folder of a Hugging Face model whose tokenizer counts instead.")
@click.option("--context-tokens", type=click.IntRange(min=1),
              help="Tokens of prompt and answer together.  [default: the bundle's, at most 2048]")  # fmt: skip
@click.option("--html", "html_file", type=_PATH, help="Also write the report to this file, with drawings.")
@_json_option
def check(
    files: tuple[Path, ...],
    held_out: tuple[Path, ...],
    split_file: Path | None,
    bundle: Path | None,
    tokenizer: Path | None,
    context_tokens: int | None,
    html_file: Path | None,
    as_json: bool,
) -> int:
    """Look for what is wrong with training FILES: .jsonl, .json in SQuAD format, .csv.

    Exits with 1 where an error was found.
    """
    from edge.config import to_plain
    from optimize import dataset
    from optimize.dataset import report as reports
    from optimize.dataset.check import check as run

    if bundle and tokenizer:
        raise UsageError("give either --bundle or --tokenizer")
    if held_out and split_file:
        raise UsageError("give either --held-out or --split")
    train: Sequence[Example] = dataset.read_all(files)
    kept: Sequence[Example] = [example for path in held_out for example in dataset.read(path)]
    if split_file is not None:
        made = dataset.read_split(split_file, train)
        train, kept = made.train, made.held_out
    measure, context = _measure(bundle or tokenizer)
    report = run(train, kept, measure=measure, context_tokens=context_tokens or context)
    if html_file is not None:
        title = ", ".join(str(path) for path in (*files, *held_out))
        _write(html_file, reports.page(title, report))
    if as_json:
        found = {"failed": report.failed, "findings": to_plain(report.findings), "figures": report.figures}
        click.echo(json.dumps(found))
    else:
        for line in reports.lines(report):
            click.echo(line)
    return 1 if report.failed else 0


@data.command()
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--out", required=True, type=_PATH, help="File to write the split to (JSON).")
@click.option("--held-out", "share", type=float, default=0.1, show_default=True, help="Share of documents held out.")
@click.option("--document", "documents", multiple=True, help="Name of a document to hold out instead; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True)
@_json_option
def split(
    files: tuple[Path, ...], out: Path, share: float, documents: tuple[str, ...], seed: int, as_json: bool
) -> int:
    """Split the examples of FILES by document, and write down which documents are held out."""
    from optimize import dataset

    made = dataset.split(dataset.read_all(files), held_out=documents or share, seed=seed)
    try:
        dataset.write_split(out, made)
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written: {error.strerror}") from None
    sizes = {"train": len(made.train), "held_out": len(made.held_out), "digest": made.digest}
    _say(
        {"path": str(out), **sizes},
        f"{out}: {len(made.train)} examples to train on, {len(made.held_out)} held out",
        as_json,
    )
    return 0


@data.command(name="from-feedback")
@click.option("--out", required=True, type=_PATH, help="File to write (JSONL); what is in it stays.")
@click.option("--feedback", "path", type=_PATH,
              help="Feedback, or an export of it.  [default: feedback.db in the home folder]")  # fmt: skip
@click.option("--review", is_flag=True, help="Look at each example in the terminal: keep, edit or drop it.")
@click.option("--accept-ratings", is_flag=True, help="Take the ratings for the review: keep every example.")
@_json_option
def from_feedback(out: Path, path: Path | None, review: bool, accept_ratings: bool, as_json: bool) -> int:
    """Make training examples of rated answers: right ones as they are, wrong ones as they were corrected.

    Nothing is trained on before it was reviewed: without --review or --accept-ratings the examples are written as
    pending, and `edge optimize data review` decides on them.
    """
    from optimize.dataset.from_feedback import collect

    if review and accept_ratings:
        raise UsageError("give either --review or --accept-ratings")
    made = collect(path or home() / "feedback.db", out, accept=accept_ratings)
    if review:
        _walk(out)
    counts = {"added": made.added, "known": made.known, "without_correction": made.without_correction}
    state = "" if review or accept_ratings else f"; decide on them: edge optimize data review {out}"
    sentence = (
        f"{made.added} examples added to {out}, {made.known} were there, {made.without_correction} rated down without "
        f"a correction left out{state if made.added else ''}"
    )
    _say({"path": str(out), **counts}, sentence, as_json)
    return 0


@data.command()
@click.argument("file", type=_PATH)
def review(file: Path) -> int:
    """Decide on the pending examples of FILE in the terminal: keep, edit or drop. What is decided is saved at once."""
    decided, left = _walk(file)
    click.echo(f"{decided} decided, {left} pending")
    return 0


@data.command()
@click.option("--index", type=_PATH, help="Index to make them from.  [default: index.db in the home folder]")
@click.option("--out", required=True, type=_PATH, help="File to write (JSONL).")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many, drawn evenly over documents.")
@click.option("--unanswerable", type=click.FloatRange(0, 1, max_open=True), default=0.2, show_default=True,
              help="Share of questions that are shown passages of other documents.")  # fmt: skip
@click.option("--passages", type=click.IntRange(min=1, max=8), default=3, show_default=True,
              help="Passages in each prompt, at most: the right one among others.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@_json_option
def synthesize(
    index: Path | None, out: Path, limit: int | None, unanswerable: float, passages: int, seed: int, as_json: bool
) -> int:
    """Make questions and answers from the documents of an index, by rules, in English and German.

    Each answer stands in its passage word for word; all are marked as synthetic. No model is used.
    """
    from optimize.dataset.synthesize import synthesize as run

    made = run(index or home() / "index.db", limit=limit, unanswerable=unanswerable, passages=passages, seed=seed)
    _write(out, "".join(line + "\n" for line in made.lines))
    counts = {"examples": len(made.lines), "unanswerable": made.unanswerable, "documents": made.documents}
    _say(
        {"path": str(out), **counts, "by_rule": made.by_rule},
        f"{len(made.lines)} examples of {made.documents} documents written to {out}, {made.unanswerable} of them "
        "without an answer; look through them before you train on them",
        as_json,
    )
    return 0


@data.command()
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--out", required=True, type=_PATH, help="File to write (JSONL).")
@click.option("--bundle", type=_PATH, help="Bundle whose embedder searches.  [default: bundle in the home folder]")
@click.option("--passages", type=click.IntRange(1, 8), default=3, show_default=True,
              help="Passages in each prompt, at most, as answer.max_passages.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True,
              help="Prompts made for each passage, each with others beside it.")  # fmt: skip
@click.option("--unanswerable", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True,
              help="Share of questions whose prompt does not hold the answer.")  # fmt: skip
@click.option("--prompts", type=click.IntRange(min=0), default=0, show_default=True,
              help="At most so many prompts, drawn with --seed; 0: all.")  # fmt: skip
@click.option("--without", "left_out", multiple=True, help="Name of a document to leave out; repeatable.")
@click.option("--only", multiple=True, help="Name of a document to take, and no others; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True)
@_json_option
def ground(
    files: tuple[Path, ...], out: Path, bundle: Path | None, passages: int, rounds: int, unanswerable: float,
    prompts: int, left_out: tuple[str, ...], only: tuple[str, ...], seed: int, as_json: bool,
) -> int:  # fmt: skip
    """Put the questions of FILES to several passages, as a search would bring them, some without the right one.

    The files hold a question and its passage on each line, or are in SQuAD format; the passages are cut into chunks.
    """
    from edge.box import Box
    from optimize import dataset
    from optimize.dataset.grounded import Shape, ground
    from optimize.dataset.rows import line_of

    examples = dataset.read_all(files)
    named = {example.document for example in examples}
    if unknown := sorted({*left_out, *only} - named):
        raise UsageError(
            f"no document is called {', '.join(unknown)}: the files name {', '.join(sorted(named)[:5])}, …"
        )
    taken = [e for e in examples if e.document not in left_out and (not only or e.document in only)]
    with Box.open(bundle=bundle, index=None, config=None) as box:
        shape = Shape(passages, rounds, unanswerable, prompts, seed)
        made = ground(taken, box.embedder, box.config.ingest.chunk, shape)
    _write(out, "".join(line_of(example) + "\n" for example in made))
    refused = sum(not example.answers for example in made)
    _say(
        {"path": str(out), "examples": len(made), "unanswerable": refused},
        f"{len(made)} examples written to {out}, {refused} of them without an answer",
        as_json,
    )
    return 0


def _measure(named: Path | None) -> tuple[Measure | None, int | None]:
    from optimize.dataset.lengths import measure_with

    folder = named or home() / "bundle"
    return measure_with(folder) if named or folder.is_dir() else (None, None)


def _walk(path: Path) -> tuple[int, int]:
    """Ask about each pending example; returns how many were decided, and how many are pending still."""
    from optimize.dataset.review import Reviewed

    reviewed = Reviewed.read(path)
    decided = 0
    for row in list(reviewed.pending):
        click.echo(f"\n{reviewed.shown(row)}")
        choice = click.prompt(
            "[k]eep, [e]dit the answer, [d]rop, [q]uit", type=click.Choice(["k", "e", "d", "q"]), show_choices=False
        )
        if choice == "q":
            break
        if choice == "e":
            text = click.prompt('Answer ("-": the passages hold none)', default=row.get("answer") or "-")
            reviewed.edit(row, None if text.strip() == "-" else text)
        row["review"] = "drop" if choice == "d" else "keep"
        reviewed.write()
        decided += 1
    return decided, len(reviewed.pending)


def _write(path: Path, content: str) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise EdgeError(f"{path}: cannot be written: {error.strerror}") from None


def _say(result: dict[str, object], sentence: str, as_json: bool) -> None:
    click.echo(json.dumps(result) if as_json else sentence)
