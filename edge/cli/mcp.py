"""`edge mcp`: the documents as tools for assistants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.common import memory_budget_option
from edge.errors import UsageError

if TYPE_CHECKING:
    from edge.mcp_sources import Source

_PATH = click.Path(path_type=Path)
_KEY = "EDGE_API_KEY"


@click.command()
@click.option("--http", metavar="HOST:PORT", help="Serve over HTTP at /mcp of a loopback address.  [default: stdio]")
@click.option("--url", help=f"Ask the daemon there, such as http://127.0.0.1:8642; {_KEY} holds its key, if any.")
@click.option("--bundle", type=_PATH, help="Folder of the bundle.  [default: bundle in the home folder]")
@click.option("--index", type=_PATH, help="File of the index.  [default: index.db in the home folder]")
@click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the home folder]")
@memory_budget_option
def mcp(
    http: str | None,
    url: str | None,
    bundle: Path | None,
    index: Path | None,
    config: Path | None,
    memory_budget: str | None,
) -> int:
    """Offer the documents to assistants that speak the Model Context Protocol: the tools `search` and `ask`.

    Answers come from the bundle and index here, or with --url from a daemon that runs already.
    """
    from edge.mcp_sources import BoxSource, DaemonSource

    if url is not None:
        if any(value is not None for value in (bundle, index, config, memory_budget)):
            raise UsageError("--url: the daemon there has its own bundle, index, configuration and memory budget")
        _serve(DaemonSource(url, os.environ.get(_KEY)), http)
        return 0
    from edge.box import Box
    from edge.cli.common import print_note

    with Box.open(bundle=bundle, index=index, config=config, memory_budget=memory_budget, on_note=print_note) as box:
        _serve(BoxSource(box), http)
    return 0


def _serve(source: Source, http: str | None) -> None:
    from edge.mcp import serve_http, serve_stdio

    if http is None:
        serve_stdio(source)
        return
    host, colon, port = http.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--http {http!r}: write HOST:PORT, such as 127.0.0.1:8643")
    serve_http(source, host.strip("[]"), int(port))
