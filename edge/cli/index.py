"""`edge index`: look at the index, remove from it, rebuild it, compact it; its deltas are in index_delta.py."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.box import Box
from edge.cli import index_delta
from edge.cli.common import human_bytes, json_option, print_json, short, with_box
from edge.errors import UsageError

if TYPE_CHECKING:
    from edge.store.recall import Recall

SEARCHES = {"exact": "all are compared", "signs": "some hundred are compared, found by sign bits kept in memory"}


@click.group()
def index() -> None:
    """Look at the index, remove from it, rebuild it, compact it; send what changed in it to boxes."""


for _command in (index_delta.delta, index_delta.apply):
    index.add_command(_command)


@index.command()
@click.option("--documents", "list_documents", is_flag=True, help="List the documents too.")
@click.option("--check", "with_check", is_flag=True, help="Measure what a search of the vectors finds against exact.")
@json_option
@with_box
def status(box: Box, list_documents: bool, with_check: bool, as_json: bool) -> int:
    """Print what is in the index."""
    from edge.store.recall import check
    from edge.store.upkeep import status as read_status

    store = box.open_store(any_identity=True)
    exact_chunks = box.config.retrieve.exact_chunks
    state = read_status(store, exact_chunks)
    sources = sorted(store.known()) if list_documents else []
    measured = check(store, exact_chunks) if with_check else None
    if as_json:
        listed = {"sources": sources} if list_documents else {}
        print_json(asdict(state) | listed | ({"check": _plain(measured)} if with_check else {}))
        return 0
    click.echo(f"{state.path}: {state.documents} documents, {state.chunks} chunks, {human_bytes(state.bytes)}")
    for name, counts in (("types", state.types), ("languages", state.languages)):
        click.echo(f"{name:<10} " + ", ".join(f"{key} {count}" for key, count in counts.items()))
    click.echo(f"embedder   {state.embedder[:16]} ({state.dim} dimensions)")
    click.echo(f"unused     {human_bytes(state.unused_bytes)}" + (": compact pays" if state.compact_pays else ""))
    memory = f", at most {human_bytes(state.resident_bytes)} of memory" if state.resident_bytes else ""
    click.echo(f"vectors    {SEARCHES[state.search]}{memory}")
    if with_check:
        click.echo(f"check      {_sentence(measured)}")
    for source in sources:
        click.echo(f"  {short(source)}")
    return 0


def _plain(measured: Recall | None) -> dict[str, int | float] | None:
    """What `--check --json` prints; None where there are too few chunks."""
    if measured is None:
        return None
    return {
        "queries": measured.queries,
        f"recall_at_{measured.depth}": round(measured.recall, 4),
        "search_sec_p50": measured.search_sec_p50,
        "exact_sec_p50": measured.exact_sec_p50,
    }


def _sentence(measured: Recall | None) -> str:
    if measured is None:
        return "too few chunks to compare"
    ms, exact_ms = 1000 * measured.search_sec_p50, 1000 * measured.exact_sec_p50
    return (
        f"recall@{measured.depth} {measured.recall:.4f} against the exact search, {measured.queries} questions made of "
        f"chunks; {ms:.1f} ms, exact {exact_ms:.1f} ms (medians)"
    )


@index.command()
@click.argument("which", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every document.")
@json_option
@with_box
def remove(box: Box, which: tuple[str, ...], everything: bool, as_json: bool) -> int:
    """Remove documents: files, folders, or patterns such as '*.csv'. The files themselves are not touched."""
    if bool(which) == everything:
        raise UsageError("say what to remove: files, folders or patterns, or --all")
    if not all(which):
        raise UsageError("an empty name would mean every document under this folder: say which ones, or --all")
    store = box.open_store(any_identity=True)
    known = list(store.known())
    chosen = known if everything else [source for source in known if any(_names(name, source) for name in which)]
    unmatched = [name for name in which if not any(_names(name, source) for source in known)]
    if unmatched:
        raise UsageError(f"no document matches {', '.join(unmatched)}; see `edge index status --documents`")
    count = store.remove(chosen)
    if as_json:
        print_json({"removed": count, "sources": sorted(chosen)})
    else:
        click.echo(f"{count} documents removed")
    return 0


@index.command()
@json_option
@with_box
def rebuild(box: Box, as_json: bool) -> int:
    """Make chunks and vectors anew from the stored texts, with this bundle's embedder and this configuration."""
    from edge.cli.ingest import print_report, progress_bar
    from edge.ingest.index import chunker_id
    from edge.ingest.index import rebuild as run
    from edge.store.chunks import Identity

    section = box.bundle.manifest.embedder
    identity = Identity(section.fingerprint, section.dim, chunker_id(box.config.ingest.chunk))
    store = box.open_store(any_identity=True)
    with progress_bar(hidden=as_json) as on_progress:
        report = run(store, box.embedder, box.config.ingest, identity, on_progress=on_progress)
    if as_json:
        print_json(asdict(report))
    else:
        print_report(report)
    return 0


@index.command()
@json_option
@with_box
def compact(box: Box, as_json: bool) -> int:
    """Give back the room of removed documents. Needs as much free disk as the index takes."""
    from edge.store.upkeep import compact as run

    gained = run(box.open_store(any_identity=True))
    if as_json:
        print_json({"gained_bytes": gained})
    else:
        click.echo(f"{human_bytes(gained)} given back")
    return 0


def _names(name: str, source: str) -> bool:
    """Whether what a person typed means this source: its path, a folder above it, its file, or a pattern."""
    path = Path(name).absolute().as_posix()
    patterns = (name, f"*/{name}", f"*/{name}#*")
    return source == path or source.startswith((f"{path}/", f"{path}#")) or _matches(patterns, source)


def _matches(patterns: Iterable[str], source: str) -> bool:
    return any(fnmatch.fnmatchcase(source, pattern) for pattern in patterns)
