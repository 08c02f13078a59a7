"""`edge plan`: what answering takes, before anything is loaded, and what fits the memory budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edge.box import Box
from edge.cli.common import json_option, memory_budget_option, print_json, with_box
from edge.errors import BudgetExceeded
from edge.sizes import mib

if TYPE_CHECKING:
    from edge.budget import Line, Plan, Use
    from edge.workload import Measured

TOLERANCE = 0.10
"""How far planned and measured may be apart."""
GATE_FAILED = 4


@click.command()
@click.option("--context", type=click.IntRange(min=1), help="Tokens of prompt and answer.  [default: as configured]")
@click.option("--prefixes", type=click.IntRange(min=0), default=0, show_default=True,
              help="Prompts to keep beside the current one, for the next questions on the same documents.")  # fmt: skip
@click.option("--measure", "measured", is_flag=True,
              help="Run the largest prompt with an ingest beside it, and print planned against measured.")  # fmt: skip
@memory_budget_option
@json_option
@with_box
def plan(box: Box, context: int | None, prefixes: int, measured: bool, as_json: bool) -> int:
    """Print the memory ledger: who takes what, what fits the budget, and what does not.

    Mapped files are pages that the kernel can drop: "stays" is what has to remain in memory. Exits with 1 where nothing
    fits, and with 4 where `--measure` finds more than 10% between planned and measured.
    """
    from edge.budget import Use

    wanted = Use(context or box.config.answer.context_tokens, prefixes=prefixes)
    found, result = _planned(box, wanted)
    if measured and found:
        from edge.workload import measure

        result["measured"] = _compared(box, found, measure(box))
    if as_json:
        print_json(result)
    else:
        _print(box, result)
    if not found:
        return 1
    return GATE_FAILED if measured and not result["measured"]["within_tolerance"] else 0


def _planned(box: Box, wanted: Use) -> tuple[Plan | None, dict[str, Any]]:
    """The plan, None where nothing of use fits, and what is printed of it."""
    from edge.budget import USEFUL_TOKENS, Use, fit, headroom, ingest_lines, lines_of, most_prefixes, peak

    parts, budget = box.parts, box.budget
    found, refused = None, []
    try:
        found = fit(parts, budget, wanted)
        lines, refused = found.lines, list(found.refusals)
    except BudgetExceeded as error:
        lines = lines_of(parts, Use(min(USEFUL_TOKENS, wanted.context_tokens)))
        refused.append(str(error))
    try:
        beside = fit(parts, budget, dataclasses.replace(wanted, ingest=True)).use.context_tokens
    except BudgetExceeded as error:
        beside = 0
        refused.append(f"with an ingest beside it: {error}")
    ingest = ingest_lines(parts)
    result = {
        "budget_bytes": budget.bytes,
        "budget_source": budget.source,
        "context_tokens": found.use.context_tokens if found else 0,
        "context_tokens_beside_ingest": beside,
        "cached_prefixes": found.use.prefixes if found else 0,
        "cached_prefixes_most": most_prefixes(parts, found) if found else 0,
        "bytes": peak(lines),
        "kept_bytes": peak(lines, kept=True),
        "headroom_bytes": headroom(budget.bytes),
        "ingest_bytes": peak(ingest),
        "refused": refused,
        "lines": [_line(line, "answer") for line in lines] + [_line(line, "ingest") for line in ingest],
    }
    return found, result


def _line(line: Line, part: str) -> dict[str, Any]:
    return {"part": part, "name": line.name, "kind": line.kind, "bytes": line.bytes, "kept_bytes": line.kept,
            "group": line.group, "why": line.why}  # fmt: skip


def _compared(box: Box, found: Plan, measured: Measured) -> dict[str, Any]:
    """Planned against measured, of the lines that can be told apart from outside; the workload has an ingest."""
    from edge.budget import ingest_lines

    planned: dict[str, int] = {}
    for line in (*found.lines, *ingest_lines(box.parts)):
        planned[line.group] = planned.get(line.group, 0) + line.bytes
    total, peak = sum(planned.values()), measured.peak
    ratio = total / peak.bytes
    return {
        "groups": {name: {"planned_bytes": size, "measured_bytes": measured.groups.get(name, 0)}
                   for name, size in planned.items()},
        "planned_bytes": total,
        "measured_bytes": peak.bytes,
        "private_bytes": peak.private_bytes,
        "file_bytes": peak.file_bytes,
        "file_pss_bytes": peak.file_pss_bytes,
        "tokens": measured.tokens,
        "planned_ratio": round(ratio, 3),
        "within_tolerance": abs(ratio - 1) <= TOLERANCE,
    }  # fmt: skip


def _print(box: Box, result: dict[str, Any]) -> None:
    name = box.bundle.manifest.name
    click.echo(f"{name}, budget {mib(result['budget_bytes'])}: {result['budget_source']}\n")
    click.echo(f"{'':<34}{'private':>11}{'mapped':>11}{'stays':>11}")
    for part, total in (("answer", "answering"), ("ingest", "an ingest beside it")):
        rows = [row for row in result["lines"] if row["part"] == part]
        for row in rows:
            _print_row(row["name"], [row], row["why"])
        _print_row(f"= {total}", rows, "")
        click.echo()
    click.echo(f"headroom {mib(result['headroom_bytes'])}")
    if result["context_tokens"]:
        click.echo(f"fits: context {result['context_tokens']} tokens, {result['cached_prefixes_most']} cached prefixes"
                   f" beside it; {result['context_tokens_beside_ingest']} tokens with an ingest beside it")  # fmt: skip
    for reason in result["refused"]:
        click.echo(f"does not fit: {reason}")
    if "measured" in result:
        _print_measured(result["measured"])


def _print_row(name: str, rows: Sequence[dict[str, Any]], why: str) -> None:
    private = sum(row["bytes"] for row in rows if row["kind"] == "private")
    mapped = sum(row["bytes"] for row in rows if row["kind"] == "mapped")
    kept = sum(row["kept_bytes"] for row in rows)
    columns = "".join(f"{mib(size) if size else '':>11}" for size in (private, mapped, kept))
    click.echo(f"{name:<34}{columns}  {why}".rstrip())


def _print_measured(measured: dict[str, Any]) -> None:
    click.echo(f"\n{'measured at the peak, with an ingest':<38}{'planned':>11}{'measured':>11}")
    rows = [(name, row["planned_bytes"], row["measured_bytes"]) for name, row in measured["groups"].items()]
    for name, planned, taken in [*rows, ("= together", measured["planned_bytes"], measured["measured_bytes"])]:
        click.echo(f"{name:<38}{mib(planned):>11}{mib(taken):>11}")
    state = "within" if measured["within_tolerance"] else "NOT within"
    click.echo(f"planned / measured {measured['planned_ratio']:.2f}, {state} {TOLERANCE:.0%}; private "
               f"{mib(measured['private_bytes'])}, files {mib(measured['file_bytes'])} "
               f"(Pss {mib(measured['file_pss_bytes'])}), {measured['tokens']} tokens")  # fmt: skip
