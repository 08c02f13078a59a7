"""`edge ask`: one question, or a file of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.box import Box, Mode
from edge.cli.common import (
    adapter_option,
    json_option,
    memory_budget_option,
    print_json,
    print_note,
    rerank_option,
    with_box,
)
from edge.errors import EdgeError, StoreError, UsageError

if TYPE_CHECKING:
    from edge.answer import Answer
    from edge.store.filters import Filter
    from edge.types import Token

ABSTAINED = 3


@click.command()
@click.argument("question", required=False)
@click.option("--mode", type=click.Choice(["rag", "model"]), default="rag", show_default=True,
              help="rag: from the documents; model: from the model alone, for comparison.")  # fmt: skip
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE",
              help="Search only documents with this source, type, tag, language or date; repeatable.")  # fmt: skip
@click.option("--explain", is_flag=True, help="Show every hit with its scores, what was packed, and the prompt.")
@click.option("--batch", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help='A file of {"id", "question"} lines; prints one JSON line for each.')  # fmt: skip
@adapter_option
@rerank_option
@memory_budget_option
@json_option
@with_box
def ask(
    box: Box,
    question: str | None,
    mode: Mode,
    filters: tuple[str, ...],
    explain: bool,
    batch: Path | None,
    adapter: str | None,
    as_json: bool,
) -> int:
    """Ask a QUESTION about the documents.

    Exits with 3 where the documents do not answer it.
    """
    from edge.store.filters import Filter

    where = Filter.parse(filters)
    if (question is None) == (batch is None):
        raise UsageError("give either a question or --batch FILE")
    if batch is not None:
        entries = _read_batch(batch)
        if adapter is not None:
            box.tuning(adapter)  # one that is not there is no line's fault
        return _ask_all(box, entries, mode, where, explain, adapter)
    return _ask_one(box, question or "", mode, where, explain, as_json, adapter)


def _ask_one(
    box: Box, question: str, mode: Mode, where: Filter, explain: bool, as_json: bool, adapter: str | None
) -> int:
    streaming = sys.stdout.isatty() and not as_json
    shown = echo_draft if streaming else None
    answer = box.ask(question, mode=mode, where=where, on_token=shown, last=True, adapter=adapter)
    from edge.cli.show import print_answer, print_explanation  # not before the model loads
    from edge.plain import answer_json, explain_json

    kept = _keep(box, question, answer)
    if as_json:
        print_json(answer_json(answer) | (explain_json(answer) if explain else {}) | kept)
    else:
        if explain:
            print_explanation(answer)
        print_answer(answer, mode, streamed=streaming)
        if kept:
            click.echo(f"\n(kept on this box; rate it: edge feedback rate {kept['feedback_id']} up|down)")
    return ABSTAINED if answer.abstained else 0


def echo_draft(token: Token) -> None:
    """The model's draft as it is written, dimmed: it is checked when it is whole."""
    click.secho(token.text, nl=False, dim=True)


def _ask_all(
    box: Box, questions: list[dict[str, Any]], mode: Mode, where: Filter, explain: bool, adapter: str | None
) -> int:
    """One JSON line per question; a question that fails gets a line with its error, and the rest go on."""
    from edge.plain import answer_json, explain_json

    failed = False
    for entry in questions:
        try:
            answer = box.ask(entry["question"], mode=mode, where=where, adapter=adapter)
        except UsageError as error:
            result: dict[str, Any] = {"error": str(error), "kind": type(error).__name__}
        except EdgeError as error:
            if not _is_about_the_question(error):
                raise
            result = {"error": str(error), "kind": type(error).__name__}
        else:
            kept = _keep(box, entry["question"], answer)
            result = answer_json(answer) | (explain_json(answer) if explain else {}) | kept
        failed = failed or "error" in result
        print_json({"id": entry["id"]} | result)
        sys.stdout.flush()
    return 1 if failed else 0


def _keep(box: Box, question: str, answer: Answer) -> dict[str, Any]:
    """Keep the question and its answer where the configuration asks for it; an answer is shown even if that fails."""
    if not box.config.feedback.enabled:
        return {}
    from edge import feedback

    path, shown = feedback.default_path(), box.config.answer.max_passages
    try:
        return {"feedback_id": feedback.record(path, question, answer, box.bundle.digest, max_passages=shown)}
    except StoreError as error:
        print_note(f"the answer was not kept: {error}")
        return {}


def _is_about_the_question(error: EdgeError) -> bool:
    from edge.errors import PromptTooLong

    return isinstance(error, PromptTooLong)


def _read_batch(path: Path) -> list[dict[str, Any]]:
    """Read and check the whole file before anything is loaded.

    :raises UsageError: a line is not an object with "id" and "question"; names the line.
    """
    questions: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("question"), str):
            raise UsageError(f'{path}, line {number}: each line is an object with "id" and "question"')
        questions.append(entry)
    if not questions:
        raise UsageError(f"{path} holds no questions")
    return questions
