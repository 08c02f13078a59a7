"""`edge optimize`: builds a bundle from a recipe. Found by the `edge` command through the entry point `edge.commands`."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edge.config import to_plain
from edge.errors import BuildError, EdgeError, UsageError
from edge.files import home

_NEEDED = ("torch", "transformers", "olive", "onnx", "gguf")
_TITLES = {
    "parent": "fetch the base model, make the fp32 parent",
    "model": "quantize with Olive",
    "kv-scales": "calibrate the KV cache",
    "reference": "read the gate's text with the parent",
    "gate": "compare the build with its parent",
    "embedder": "build the embedder",
    "memory": "measure memory",
    "bundle": "package",
}


@click.group()
def optimize() -> None:
    """Build bundles on the workstation (needs the extra: pip install 'edge-slm[optimize]')."""


@optimize.command()
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Where the bundle goes. Default: bundle under EDGE_HOME.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def run(recipe: str | None, out: Path | None, as_json: bool) -> None:
    """Build the bundle of RECIPE: a YAML file, or the name of a shipped recipe. Without one, the default recipe.

    What is built already is used again. Exit codes: 0 built, 1 error, 2 usage, 4 the quality gate failed.
    """
    with _errors():
        _check_installed()
        from optimize import pipeline
        from optimize.recipe import DEFAULT, load_recipe

        loaded = load_recipe(recipe or DEFAULT)
        with _progress() as report:
            result = pipeline.run(loaded, out or home() / "bundle", report)
    if as_json:
        click.echo(json.dumps(to_plain(result)))
        return
    gate = result.gate
    click.echo(f"{result.path}")
    click.echo(f"  manifest sha256 {result.digest}")
    click.echo(
        f"  against the fp32 parent over {gate['tokens']} tokens: perplexity x{gate['perplexity_ratio']}, "
        f"KL {gate['kl_nats']} nats, top-1 {gate['top1_agreement']:.1%}, greedy {gate['greedy_agreement']:.1%}"
    )


@optimize.command()
def recipes() -> None:
    """List the recipes that come with the project."""
    from optimize.recipe import DEFAULT, shipped

    for name, path in shipped().items():
        click.echo(f"{name}{' (default)' if name == DEFAULT else ''}\t{path}")


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not installed: run pip install 'edge-slm[optimize]'")


@contextmanager
def _errors() -> Iterator[None]:
    """The one place where errors become a message on stderr and an exit code."""
    try:
        yield
    except EdgeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)


@contextmanager
def _progress() -> Iterator[object]:
    """Show each stage and its time on stderr: a spinner on a terminal, a line per stage elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    began: dict[str, float] = {}
    with console.status("") as status:

        def report(stage: str, state: str) -> None:
            title = _TITLES.get(stage, stage)
            if state == "running":
                began[stage] = time.monotonic()
                status.update(f"{title} ...")
            else:
                console.print(f"[green]ok[/] {title}: {state}, {time.monotonic() - began[stage]:.1f} s", highlight=False)

        yield report
