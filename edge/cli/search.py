"""`edge search`: the best passages for a query; no model writes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edge.box import Box
from edge.cli.common import console, json_option, memory_budget_option, print_json, rerank_option, short, with_box

if TYPE_CHECKING:
    from edge.types import Hit

_NOTHING = 3  # as `edge ask` where the documents do not answer


@click.command()
@click.argument("query")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE",
              help="Search only documents with this source, type, tag, language or date; repeatable.")  # fmt: skip
@click.option("--top-k", type=click.IntRange(1, 1000), help="Passages to show.  [default: retrieve.top_k]")
@rerank_option
@memory_budget_option
@json_option
@with_box
def search(box: Box, query: str, filters: tuple[str, ...], top_k: int | None, as_json: bool) -> int:
    """Find the passages that are nearest a QUERY, best first, with their scores.

    Exits with 3 where there are none.
    """
    from edge.plain import hit_json
    from edge.store.filters import Filter

    where = Filter.parse(filters)
    box.admit()
    hits = box.retrieve(query, where, top_k)
    if as_json:
        print_json({"hits": [{"title": hit.title} | hit_json(hit) for hit in hits]})
    else:
        _print(hits)
    return 0 if hits else _NOTHING


def _print(hits: list[Hit]) -> None:
    """A paragraph for each: where it stands, its scores, its text; `console` is for stderr alone."""
    if not hits:
        console().print("nothing was found")
    for number, hit in enumerate(hits, 1):
        page = f", page {hit.chunk.page}" if hit.chunk.page is not None else ""
        scores = {"fused": hit.score, "closest": hit.closest, "reranked": hit.reranked}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items() if value is not None)
        click.echo(f"{number}. {short(hit.document)}{page}, characters {hit.chunk.start}-{hit.chunk.end}  ({shown})")
        click.echo(f"   {' '.join(hit.chunk.text.split())}\n")
