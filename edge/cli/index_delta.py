"""`edge index delta` and `edge index apply`: what changed in an index, as one signed file for boxes."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from edge.box import Box
from edge.cli.common import human_bytes, json_option, print_json, print_note, with_box
from edge.errors import UsageError
from edge.files import home

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option("-o", "--out", type=_PATH, required=True, help="The file to write, NAME.delta.")
@click.option("--key", type=_FILE, help="Sign it with this private key.  [default: `edge bundle sign` does that later]")
@click.option("--release", type=int, help="A number for the signature.  [default: the time in seconds]")
@json_option
def delta(old: Path, new: Path, out: Path, key: Path | None, release: int | None, as_json: bool) -> int:
    """Write what changes from the index OLD to NEW: documents added, replaced and removed, with their vectors.

    Make NEW of a copy of OLD, and ingest into that.
    """
    from edge.deploy.delta import pack
    from edge.deploy.pack import add_signature
    from edge.store.chunks import Store

    if release is not None and key is None:
        raise UsageError("--release is the number of a signature: say --key too")
    with Store.open(old) as before, Store.open(new) as after:
        head = pack(before, after, out)
    signature = add_signature(out, key, release, time.time()) if key is not None else None
    size = out.stat().st_size
    counts = {"added": head.added, "replaced": head.replaced, "removed": head.removed, "chunks": head.chunks}
    if as_json:
        signed = None if signature is None else {"key": signature.key, "release": signature.release}
        states = {"base": head.base, "result": head.result}
        print_json({"path": str(out), "bytes": size, **counts, **states, "signed": signed})
        return 0
    who = "unsigned: `edge bundle sign` is next" if signature is None else f"signed with key {signature.key}"
    click.echo(f"{out}: {human_bytes(size)}, {_sentence(**counts)}, {who}")
    return 0


@click.command()
@click.argument("file", type=_FILE)
@click.option("--trusted", type=_PATH, help="Trust file.  [default: trust.yaml in the home folder]")
@click.option("--allow-unsigned", is_flag=True, help="Apply it whoever made it.")
@click.option("--others", is_flag=True,
              help="The index may hold other documents, which stay; only those that change are compared.")  # fmt: skip
@json_option
@with_box
def apply(box: Box, file: Path, trusted: Path | None, allow_unsigned: bool, others: bool, as_json: bool) -> int:
    """Apply a delta to the index, all of it or nothing. Needs no model and no documents; a daemon goes on serving.

    An index that the delta was not made for is refused, and one that has it already is left as it is.
    """
    from edge.deploy.delta import Options
    from edge.deploy.delta import apply as run

    done = run(file, box.open_store(any_identity=True), home(), Options(trusted, allow_unsigned, others))
    applied = done.applied
    counts = {name: value for name, value in asdict(applied).items() if name != "was_applied"}
    if as_json:
        signed = None if done.verified is None else {"name": done.verified.name, "release": done.verified.release}
        print_json(asdict(applied) | {"signed": signed, "gained_bytes": done.gained_bytes, "notes": list(done.notes)})
        return 0
    for note in done.notes:
        print_note(note)
    if applied.was_applied:
        click.echo(f"{box.index_path} has these changes already: nothing was done")
    else:
        click.echo(f"{box.index_path}: {_sentence(**counts)}")
    return 0


def _sentence(added: int, replaced: int, removed: int, chunks: int) -> str:
    return f"{added} documents added, {replaced} replaced, {removed} removed; {chunks} chunks came"
