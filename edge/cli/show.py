"""How an answer is printed: for a person, as JSON, and with everything that led to it."""

from __future__ import annotations

from typing import Any

import click

from edge.answer import Answer
from edge.box import Mode
from edge.cite import Sentence
from edge.cli.common import console, short
from edge.types import Citation, Dropped, Hit


def answer_json(answer: Answer) -> dict[str, Any]:
    """The object that `edge ask --json` prints; times in seconds, spans in characters of the extracted text."""
    return {
        "answer": answer.text,
        "citations": [_citation_json(citation) for citation in answer.citations],
        "abstained": answer.abstained,
        "quoted": answer.quoted,
        "unsupported": [sentence.text for sentence in answer.sentences if sentence.citation is None],
        "dropped": [_dropped_json(dropped) for dropped in answer.dropped],
        "prompt_tokens": answer.stats.prompt_tokens,
        "cached_tokens": answer.stats.cached_tokens,
        "completion_tokens": answer.stats.completion_tokens,
        "finish_reason": "abstained" if answer.abstained else answer.stats.finish_reason,
        "retrieve_sec": round(answer.retrieve_sec, 4),
        "ttft_sec": round(answer.stats.ttft_sec, 4),
        "decode_tok_per_sec": round(answer.stats.decode_tok_per_sec, 1),
        "rss_peak_bytes": answer.rss_peak_bytes,
    }


def explain_json(answer: Answer) -> dict[str, Any]:
    """What `--explain` adds: every hit with its scores, what was packed, the prompt, and what the model wrote."""
    packed = {p.hit.chunk_id: p.marker for p in answer.prompt.passages} if answer.prompt else {}
    return {
        "hits": [_hit_json(hit, packed.get(hit.chunk_id)) for hit in answer.hits],
        "prompt": answer.prompt.text if answer.prompt else None,
        "generated": answer.generated,
    }


def print_answer(answer: Answer, mode: Mode, *, streamed: bool) -> None:
    """The answer with its markers, then the sources. `streamed`: the model's text is on the screen already."""
    if streamed and answer.generated:
        click.echo("\n")
    if answer.quoted:
        click.echo(f"The documents say: “{answer.text}” [{answer.citations[0].marker}]")
        click.echo("(quoted word for word, since what the model wrote was not borne out)")
    elif answer.sentences:
        click.echo(_marked(answer))
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
    for name in ("packed", "dense", "lexical", "fused", "closest", "relevance", "document", "text"):
        table.add_column(name, justify="left" if name in ("packed", "document", "text") else "right")
    packed = {p.hit.chunk_id: f"[{p.marker}]" for p in answer.prompt.passages} if answer.prompt else {}
    reasons = {dropped.chunk_id: dropped.reason for dropped in answer.dropped}
    for hit in answer.hits:
        table.add_row(
            packed.get(hit.chunk_id, reasons.get(hit.chunk_id, "")).replace("[", r"\["),
            f"{hit.dense:.3f}", f"{hit.lexical:.2f}", f"{hit.score:.4f}",
            *("" if value is None else f"{value:.3f}" for value in (hit.closest, hit.relevance)),
            short(hit.document), " ".join(hit.chunk.text.split())[:60].replace("[", r"\["),
        )  # fmt: skip
    out.print(table)
    if answer.prompt:
        out.print("\nPrompt", style="bold")
        out.print(answer.prompt.text, markup=False)
    if answer.quoted:
        out.print("\nGenerated, and not borne out", style="bold")
        out.print(answer.generated, markup=False)


def _marked(answer: Answer) -> str:
    """The answer's text with a marker after each supported sentence, and a note after each other one."""
    text, end = "", 0
    for sentence in answer.sentences:
        text += answer.text[end : sentence.end] + _mark(sentence)
        end = sentence.end
    return text + answer.text[end:]


def _mark(sentence: Sentence) -> str:
    return f" [{sentence.citation.marker}]" if sentence.citation else " [unsupported]"


def _citation_json(citation: Citation) -> dict[str, Any]:
    names = ("marker", "document", "title", "page", "start", "end", "text", "score", "sentence")
    return {name: getattr(citation, name) for name in names}


def _dropped_json(dropped: Dropped) -> dict[str, Any]:
    names = ("chunk_id", "document", "start", "end", "tokens", "reason")
    return {name: getattr(dropped, name) for name in names}


def _hit_json(hit: Hit, marker: int | None) -> dict[str, Any]:
    return {
        "marker": marker,
        "chunk_id": hit.chunk_id,
        "document": hit.document,
        "page": hit.chunk.page,
        "start": hit.chunk.start,
        "end": hit.chunk.end,
        "dense": round(hit.dense, 4),
        "lexical": round(hit.lexical, 4),
        "fused": round(hit.score, 6),
        "closest": None if hit.closest is None else round(hit.closest, 4),
        "relevance": None if hit.relevance is None else round(hit.relevance, 4),
        "text": hit.chunk.text,
    }
