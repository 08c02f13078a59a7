"""`edge bundle`: what a bundle is, whether it is whole, its copy for this CPU, and its archive."""

from __future__ import annotations

from pathlib import Path

import click

from edge.box import Box
from edge.cli import archive, registry
from edge.cli.common import human_bytes, json_option, print_json, with_box


@click.group()
def bundle() -> None:
    """Show, verify or prepare the bundle; pack it into one file, sign and compare such files."""


for _command in (
    archive.pack,
    archive.unpack,
    archive.sign,
    archive.keygen,
    archive.diff,
    registry.push,
    registry.pull,
):
    bundle.add_command(_command)


@bundle.command()
@json_option
@with_box
def show(box: Box, as_json: bool) -> int:
    """Print the manifest."""
    from edge.config import to_plain, to_yaml

    loaded = box.bundle
    if as_json:
        print_json({"path": str(loaded.path), "manifest": to_plain(loaded.manifest), "digest": loaded.digest})
    else:
        click.echo(f"# {loaded.path}\n# digest {loaded.digest}\n{to_yaml(loaded.manifest)}", nl=False)
    return 0


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--trusted", type=click.Path(path_type=Path),
              help="Trust file, for an archive.  [default: trust.yaml in the home folder]")  # fmt: skip
@click.option("--allow-unsigned", is_flag=True, help="An archive that is whole will do, whoever made it.")
@json_option
@with_box
def verify(box: Box, file: Path | None, trusted: Path | None, allow_unsigned: bool, as_json: bool) -> int:
    """Read every byte of the bundle and compare it with the manifest; of its prepared copy too, where there is one.

    With FILE, an archive: its every byte, and whether somebody trusted signed it.
    """
    if file is not None:
        return archive.verify_archive(file, trusted, allow_unsigned, as_json)
    from edge.bundle import verify
    from edge.engine import prepared
    from edge.files import cache

    checked = verify(box.bundle_path)
    if copy := prepared.find(checked, cache()):
        prepared.verify(copy)
    files = checked.manifest.files
    size = sum(entry.bytes for entry in files.values())
    if as_json:
        print_json({"path": str(checked.path), "digest": checked.digest, "files": len(files), "bytes": size})
    else:
        click.echo(f"{checked.path}: {len(files)} files, {human_bytes(size)}, all as the manifest says")
        click.echo(f"digest {checked.digest}")
    return 0


@bundle.command()
@click.option("--again", is_flag=True, help="Make it anew, though there is one.")
@json_option
@with_box
def prepare(box: Box, again: bool, as_json: bool) -> int:
    """Make the copy of the weights in this CPU's own layout that other commands would make on first use."""
    from edge.engine import prepared
    from edge.files import cache

    copy = None if again else prepared.find(box.bundle, cache())
    copy = copy or prepared.prepare(box.bundle, cache())
    size = sum(path.stat().st_size for path in copy.iterdir())
    if as_json:
        print_json({"path": str(copy), "digest": box.bundle.digest, "bytes": size})
    else:
        click.echo(f"{copy}: {human_bytes(size)}, with the bundle's own logits")
    return 0
