"""`edge chat`: a conversation; follow-up questions are rewritten to stand alone before retrieval."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from edge.box import Box
from edge.cli.common import adapter_option, json_option, memory_budget_option, print_json, with_box
from edge.errors import PromptTooLong, UsageError

if TYPE_CHECKING:
    from edge.chat import Turn
    from edge.store.filters import Filter


@click.command()
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="As for `edge ask`.")
@adapter_option
@memory_budget_option
@json_option
@with_box
def chat(box: Box, filters: tuple[str, ...], adapter: str | None, as_json: bool) -> int:
    """Hold a conversation. End it with Ctrl-D or /quit; Ctrl-C ends only the answer that is being written."""
    from edge.store.filters import Filter

    where = Filter.parse(filters)
    if adapter is not None:
        box.tuning(adapter)  # says now that there is no such adapter
    if sys.stdin.isatty():
        click.echo("Ask about the documents; /new forgets what was said, /quit or Ctrl-D ends.", err=True)
    history: list[Turn] = []
    for question in _questions():
        if question == "/quit":
            break
        if question == "/new":
            history.clear()
            continue
        try:
            history.append(_turn(box, question, history, where, as_json, adapter))
        except KeyboardInterrupt:
            click.echo("\n(stopped)", err=True)
        except (PromptTooLong, UsageError) as error:
            click.echo(f"edge: {error}", err=True)
    return 0


def _questions() -> Iterator[str]:
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  (gives input() line editing and history)
    while True:
        try:
            line = input("\n> " if interactive else "")
        except EOFError:
            return
        except UnicodeDecodeError:
            raise UsageError("the input is not UTF-8 text") from None
        if line.strip():
            yield line.strip()


def _turn(box: Box, question: str, history: list[Turn], where: Filter, as_json: bool, adapter: str | None) -> Turn:
    from edge.chat import Turn, stand_alone
    from edge.cli.ask import echo_draft
    from edge.cli.show import print_answer
    from edge.plain import answer_json

    box.admit()  # before the model is used: the limit may have been lowered since the last question
    whole = stand_alone(
        question,
        history,
        engine=box.engine,
        retrieve=lambda text: box.retrieve(text, where, top_k=1),
        special_tokens=box.bundle.manifest.model.special_tokens,
    )
    streaming = sys.stdout.isatty() and not as_json
    if not as_json and whole != question:
        click.echo(f"({whole})", err=True)
    answer = box.ask(whole, where=where, on_token=echo_draft if streaming else None, adapter=adapter)
    if as_json:
        print_json({"question": question, "standalone": whole} | answer_json(answer))
        sys.stdout.flush()
    else:
        print_answer(answer, "rag", streamed=streaming)
    return Turn(whole, "" if answer.abstained else answer.text)
