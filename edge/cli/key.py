"""`edge key`: who may use the daemon."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.common import json_option, print_json
from edge.files import home

if TYPE_CHECKING:
    from edge.server.keys import Keys, Scope

_state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="The daemon's state folder; /var/lib/edge-slm/daemon for the system service.  "
    "[default: daemon in the home folder]",
)


@click.group()
def key() -> None:
    """Make, list and revoke the API keys of `edge serve`. A running daemon follows at once."""


@key.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(["ask", "search", "ingest", "admin"]), multiple=True,
              required=True, help="What it may do; repeat it for more. admin includes the others.")  # fmt: skip
@click.option("--namespace", metavar="NS", help="Share the documents of the keys with this one.  [default: its own]")
@_state_option
@json_option
def create(name: str, scopes: tuple[Scope, ...], namespace: str | None, state: Path | None, as_json: bool) -> int:
    """Make a key called NAME and print its token, this once: only a hash of it is kept."""
    made, token = _keys(state).create(name, scopes, namespace)
    if as_json:
        print_json({**asdict(made), "token": token})
        return 0
    click.echo(token)
    click.echo(f"{made.name}: {', '.join(made.scopes)}; namespace {made.namespace}. The token is not kept: copy it now",
               err=True)  # fmt: skip
    return 0


@key.command(name="list")
@_state_option
@json_option
def list_(state: Path | None, as_json: bool) -> int:
    """Show the keys, without their tokens."""
    found = _keys(state).list()
    if as_json:
        print_json({"keys": [asdict(one) for one in found]})
        return 0
    if not found:
        click.echo("there are no keys")
    for one in found:
        click.echo(f"{one.id}  {one.created[:10]}  {','.join(one.scopes):<24}  {one.namespace:<16}  {one.name}")
    return 0


@key.command()
@click.argument("name")
@_state_option
@json_option
def revoke(name: str, state: Path | None, as_json: bool) -> int:
    """Refuse the key NAME (or its id) from now on. Its documents stay in the index."""
    gone = _keys(state).revoke(name)
    if as_json:
        print_json({"revoked": asdict(gone)})
    else:
        click.echo(f"{gone.name} ({gone.id}) revoked")
    return 0


def _keys(state: Path | None) -> Keys:
    from edge.server.keys import FILE, Keys

    return Keys.open((state or home() / "daemon") / FILE)
