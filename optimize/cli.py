"""`edge optimize`: builds a bundle from a recipe. The `edge` command finds it by the entry point `edge.commands`."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edge.config import to_plain
from edge.errors import BuildError
from edge.files import home
from optimize.curve.cli import curve
from optimize.dataset.cli import data
from optimize.finetune_cli import finetune, losses_shown
from optimize.score_cli import score
from optimize.search.cli import search

_NEEDED = ("torch", "transformers", "peft", "olive", "onnx", "onnx_ir", "gguf")
_TITLES = {
    "parent": "fetch the base model and make its fp32 parent",
    "adapter": "train the adapter",
    "merged": "merge the adapter",
    "model": "quantize with Olive",
    "kv-scales": "calibrate the KV cache",
    "reference": "read the gate's text with the parent",
    "gate": "compare the build with its parent",
    "gptq": "round to int4 by GPTQ",
    "held-out": "ask the held-out questions, before and after",
    "held-out-loss": "measure the held-out loss",
    "adapters": "make inputs for adapters",
    "embedder": "build the embedder",
    "reranker": "build the reranker",
    "memory": "measure memory",
    "npu": "make the graphs for the NPU",
    "npu-gate": "compare them with the CPU form",
    "bundle": "package",
}


@click.group()
def optimize() -> None:
    """Build bundles on the workstation (needs the extra: pip install 'edge-slm[optimize]')."""


@optimize.command()
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to build.  [default: bundle in the home folder]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
def run(recipe: str | None, out: Path | None, as_json: bool) -> None:
    """Build the bundle of RECIPE: a YAML file, or the name of a shipped recipe. Without one, the default recipe.

    What is built already is used again. Exit codes: 0 built, 1 error, 2 usage, 4 the quality gate failed.
    """
    check_installed()
    from optimize import pipeline
    from optimize.recipe import load_recipe
    from optimize.shipped import DEFAULT

    loaded = load_recipe(recipe or DEFAULT)
    with progress() as report, losses_shown() as watch:
        result = pipeline.run(loaded, out or home() / "bundle", report, watch)
    if as_json:
        click.echo(json.dumps(to_plain(result)))
        return
    gate = result.gate["model"]
    click.echo(str(result.path))
    click.echo(f"  manifest sha256 {result.digest}")
    click.echo(
        f"  against the fp32 parent over {gate['tokens']} tokens: perplexity x{gate['perplexity_ratio']}, "
        f"KL {gate['kl_nats']} nats, top-1 {gate['top1_agreement']:.1%}, greedy {gate['greedy_agreement']:.1%}"
    )


@optimize.command()
def recipes() -> None:
    """List the recipes that come with the project."""
    from optimize.shipped import DEFAULT, shipped

    for name, path in shipped().items():
        click.echo(f"{name}{' (default)' if name == DEFAULT else ''}\t{path}")


optimize.add_command(curve)
optimize.add_command(finetune)
optimize.add_command(score)
optimize.add_command(search)


optimize.add_command(data)


def check_installed() -> None:
    """:raises BuildError: the extra is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BuildError(f"not installed: {', '.join(missing)}. Run pip install 'edge-slm[optimize]'")


@contextmanager
def progress() -> Iterator[Callable[[str, str], None]]:
    """Show each stage and its time on stderr: with a spinner on a terminal, as a line per stage elsewhere."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    began: dict[str, float] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        running = progress.add_task("", total=None)

        def report(stage: str, state: str) -> None:
            title = _TITLES.get(stage, stage)
            if state == "running":
                began.setdefault(stage, time.monotonic())
                progress.reset(running, description=title)
            else:
                seconds = time.monotonic() - began.pop(stage)
                console.print(f"{title}: {state}, {seconds:.1f} s", markup=False)

        yield report
