"""`edge bundle`: what a bundle is, and whether it is whole."""

from __future__ import annotations

import click

from edge.box import Box
from edge.cli.common import human_bytes, json_option, print_json, with_box


@click.group()
def bundle() -> None:
    """Show or verify the bundle."""


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
@json_option
@with_box
def verify(box: Box, as_json: bool) -> int:
    """Read every byte of the bundle and compare it with the manifest."""
    from edge.bundle import verify

    checked = verify(box.bundle_path)
    files = checked.manifest.files
    size = sum(entry.bytes for entry in files.values())
    if as_json:
        print_json({"path": str(checked.path), "digest": checked.digest, "files": len(files), "bytes": size})
    else:
        click.echo(f"{checked.path}: {len(files)} files, {human_bytes(size)}, all as the manifest says")
        click.echo(f"digest {checked.digest}")
    return 0
