"""The commands of `edge bundle` that work on archives: pack, unpack, sign, keygen, diff, and verify of one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from edge.cli.common import human_bytes, json_option, print_json, print_note

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The archive, NAME.edge.")
@click.option("--index", type=_FILE, help="A prebuilt index, for boxes that have none.")
@click.option("--config", type=_FILE, help="A configuration, for boxes that have none.")
@click.option("--probe", type=_FILE, help="Questions that it has to answer on the box before it serves there (YAML).")
@click.option("--evaluation", type=_FILE, multiple=True, help="A file of an evaluation set; repeatable.")
@click.option("--licence", "licences", type=_FILE, multiple=True, help="A licence beside the bundle's; repeatable.")
@click.option("--architecture", "architectures", multiple=True, metavar="MACHINE",
              help="Only for machines of this name (`uname -m`); repeatable.  [default: any]")  # fmt: skip
@json_option
def pack(folder: Path, out: Path, as_json: bool, **parts: Any) -> int:
    """Write the bundle FOLDER as one file, which is the same for the same input."""
    from edge.deploy.pack import Extras, pack

    table = pack(folder, out, Extras(**parts))
    size = out.stat().st_size
    if as_json:
        print_json({"path": str(out), "bundle": table.bundle, "files": len(table.files), "bytes": size})
    else:
        click.echo(f"{out}: {len(table.files)} files, {human_bytes(size)}, unsigned: `edge bundle sign` is next")
    return 0


@click.command()
@click.argument("file", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="A folder that is not there yet.")
@json_option
def unpack(file: Path, out: Path, as_json: bool) -> int:
    """Write what is in an archive into a folder, every byte checked; the bundle is in its folder `bundle`.

    Nobody's signature is asked for: `edge bundle verify FILE --trusted` does that.
    """
    from edge.deploy.unpack import unpack_to

    table = unpack_to(file, out)
    if as_json:
        print_json({"path": str(out), "bundle": table.bundle, "files": len(table.files), "bytes": table.bytes})
    else:
        click.echo(f"{out}: {len(table.files)} files, {human_bytes(table.bytes)}")
    return 0


@click.command()
@click.argument("file", type=_PATH)
@click.option("--key", type=_FILE, required=True, help="The private key, of `edge bundle keygen`.")
@click.option("--release", type=int, help="A number that grows with each release.  [default: the time in seconds]")
@click.option("-o", "--out", type=_PATH, help="The signed archive.  [default: FILE itself]")
@json_option
def sign(file: Path, key: Path, release: int | None, out: Path | None, as_json: bool) -> int:
    """Sign an archive (Ed25519); a signature by another key stays beside it."""
    from edge.deploy.pack import add_signature

    made = add_signature(file, key, release, time.time(), out)
    if as_json:
        print_json({"path": str(out or file), "key": made.key, "release": made.release, "signed": made.signed})
    else:
        click.echo(f"{out or file}: release {made.release}, signed with key {made.key} on {made.signed}")
    return 0


@click.command()
@click.argument("file", type=_PATH)
@click.option("--name", default="release", show_default=True, help="What people call the key.")
@click.option("--days", type=click.IntRange(1), default=730, show_default=True, help="How long it is valid.")
@json_option
def keygen(file: Path, name: str, days: int, as_json: bool) -> int:
    """Make a private key FILE, and FILE.trust.yaml for the boxes that shall trust it."""
    from edge.deploy.keys import generate

    key, trust = generate(file, name, time.time(), days)
    if as_json:
        print_json({"key": str(file), "trust": str(trust), "id": key.id, "not_after": key.not_after})
    else:
        click.echo(f"{file}: key {key.id}, valid until {key.not_after}; whoever has it can sign: keep it off the boxes")
        click.echo(f"{trust}: copy it to each box as trust.yaml, or its entry into the one that is there")
    return 0


@click.command()
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@json_option
def diff(old: Path, new: Path, as_json: bool) -> int:
    """Say what changes from OLD to NEW, archives or bundle folders: files, bytes to send, what the gates measured."""
    from edge.deploy.diff import diff

    found = diff(old, new)
    if as_json:
        gates = {key: {"old": before, "new": after} for key, (before, after) in found.gates.items()}
        files = {"added": found.added, "changed": found.changed, "removed": found.removed}
        print_json({**files, "send_bytes": found.send_bytes, "gates": gates})
        return 0
    for mark, names in (("+", found.added), ("~", found.changed), ("-", found.removed)):
        for name in names:
            click.echo(f"{mark} {name}")
    click.echo(f"{human_bytes(found.send_bytes)} to send")
    width = max((len(key) for key in found.gates), default=0)
    for key, (before, after) in found.gates.items():
        shown = ("-" if value is None else str(value) for value in (before, after))
        click.echo(f"{key:<{width}}  {'  ->  '.join(shown)}{'' if before == after else '  *'}")
    return 0


def verify_archive(file: Path, trusted: Path | None, allow_unsigned: bool, as_json: bool) -> int:
    """Check an archive's every byte, and who signed it."""
    from edge.deploy import trust as trusts
    from edge.deploy.archive import Archive
    from edge.errors import TrustError
    from edge.files import home

    verified = None
    with Archive.open(file) as archive:
        try:
            trust = trusts.read_trust(trusted or home() / trusts.TRUST)
            verified = trusts.check(archive, trust, now=time.time())
        except TrustError as error:
            if not allow_unsigned:
                raise
            print_note(str(error))
        archive.verify()
    table = archive.table
    if as_json:
        who = None if verified is None else {"name": verified.name, "key": verified.key, "release": verified.release}
        counts = {"files": len(table.files), "bytes": archive.bytes}
        print_json({"path": str(file), "digest": table.bundle, "archive": archive.digest, **counts, "signed": who})
        return 0
    click.echo(f"{file}: {len(table.files)} files, {human_bytes(archive.bytes)}, all as its table says")
    if verified is not None:
        click.echo(f"signed by {verified.name} ({verified.key}) on {verified.signed}, release {verified.release}")
    click.echo("the delta of an index" if table.is_delta else f"digest {table.bundle}")
    return 0
