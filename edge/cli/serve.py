"""`edge serve`: the daemon in the foreground."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge.cli.common import memory_budget_option

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--listen", metavar="ADDRESS", help="HOST:PORT or unix:PATH.  [default: server.listen]")
@click.option("--bundle", type=_PATH, help="Folder of the bundle.  [default: bundle in the home folder]")
@click.option("--index", type=_PATH, help="File of the index.  [default: index.db in the home folder]")
@click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the home folder]")
@click.option("--state", type=_PATH, help="Folder for keys, documents and the audit log.  [default: daemon at home]")
@click.option("--load", is_flag=True, help="Load the model now, not on the first question.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a key or without TLS.")
@memory_budget_option
def serve(
    listen: str | None,
    bundle: Path | None,
    index: Path | None,
    config: Path | None,
    state: Path | None,
    load: bool,
    insecure: bool,
    memory_budget: str | None,
) -> int:
    """Serve questions over HTTP: the APIs of OpenAI and Ollama, search, documents, and a page to look at.

    SIGTERM and Ctrl-C end it when running answers have ended, SIGHUP makes it read configuration and bundle anew.
    """
    from edge.box import read_config
    from edge.server.daemon import Options, run

    settings = read_config(config)
    if memory_budget is not None:
        settings = dataclasses.replace(settings, memory_budget=memory_budget)
    if listen is not None:
        settings = dataclasses.replace(settings, server=dataclasses.replace(settings.server, listen=listen))
    return run(Options(bundle, index, config, state, settings, memory_budget is not None, load, insecure))
