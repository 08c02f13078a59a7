"""How an answer is printed for a person, and everything that led to it."""

from __future__ import annotations

import click

from edge.answer import Answer
from edge.box import Mode
from edge.cli.common import console, short
from edge.plain import marked


def print_answer(answer: Answer, mode: Mode, *, streamed: bool) -> None:
    """The answer with its markers, then the sources. `streamed`: the model's text is on the screen already."""
    if streamed and answer.generated:
        click.echo("\n")
    if answer.quoted:
        click.echo(f"The documents say: “{answer.text}” [{answer.citations[0].marker}]")
        click.echo("(quoted word for word, since what the model wrote was not borne out)")
    elif answer.sentences:
        click.echo(marked(answer))
    else:
        click.echo(answer.text)
    if answer.citations:
        click.echo("\nSources")
    for citation in answer.citations:
        page = f", page {citation.page}" if citation.page is not None else ""
        click.echo(
            f"  [{citation.marker}] {short(citation.document)}{page}, characters {citation.start}-{citation.end}"
        )
        click.echo(f"      “{' '.join(citation.text.split())}”")
    if mode == "model":
        click.echo("\n(from the model alone: no documents, no sources)")


def print_explanation(answer: Answer) -> None:
    """Hits, packing and prompt, on stderr."""
    from rich.table import Table

    out = console()
    table = Table(title="Hits", title_justify="left", box=None)
    for name in ("packed", "dense", "lexical", "fused", "closest", "relevance", "reranked", "document", "text"):
        table.add_column(name, justify="left" if name in ("packed", "document", "text") else "right")
    packed = {p.hit.chunk_id: f"[{p.marker}]" for p in answer.prompt.passages} if answer.prompt else {}
    reasons = {dropped.chunk_id: dropped.reason for dropped in answer.dropped}
    for hit in answer.hits:
        table.add_row(
            packed.get(hit.chunk_id, reasons.get(hit.chunk_id, "")).replace("[", r"\["),
            f"{hit.dense:.3f}", f"{hit.lexical:.2f}", f"{hit.score:.4f}",
            *("" if value is None else f"{value:.3f}" for value in (hit.closest, hit.relevance, hit.reranked)),
            short(hit.document), " ".join(hit.chunk.text.split())[:60].replace("[", r"\["),
        )  # fmt: skip
    out.print(table)
    if answer.prompt:
        out.print("\nPrompt", style="bold")
        out.print(answer.prompt.text, markup=False)
    if answer.quoted:
        out.print("\nGenerated, and not borne out", style="bold")
        out.print(answer.generated, markup=False)
