"""`edge bench`: measure this box, compare two results, draw them."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge.bench import SUITES
from edge.cli.common import console, json_option, memory_budget_option, print_json
from edge.errors import UsageError

if TYPE_CHECKING:
    from edge.bench.config import BenchConfig
    from edge.bench.context import Track
    from edge.bench.result import Result

T = TypeVar("T")

REGRESSION = 4
_PATH = click.Path(path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--suite", "suites", multiple=True, type=click.Choice([*SUITES, "all"]), default=["latency"],
              show_default=True, help="What to measure; repeatable.")  # fmt: skip
@click.option("--peer", "peers", multiple=True, metavar="llama.cpp|URL",
              help="Measure in turns with llama.cpp, or with an OpenAI-compatible server; repeatable.")  # fmt: skip
@click.option("--peer-format", "formats", multiple=True, metavar="Q8_0|Q4_0|...",
              help="Weights of llama.cpp; repeatable, the one at equal quality first.  [default: Q8_0]")  # fmt: skip
@click.option("--peer-model", metavar="NAME", help="Name of the model at a URL.  [default: the first it lists]")
@click.option("--out", type=_PATH, help="Write the result here (JSON).")
@click.option("--settings", type=_PATH, help="How to measure (YAML, see configs/bench/default.yaml).")
@click.option("--repetitions", type=click.IntRange(1), help="Timed repetitions.")
@click.option("--warmup", type=click.IntRange(0), help="Repetitions before them, not counted.")
@click.option("--prompt-tokens", "lengths", multiple=True, type=click.IntRange(1),
              help="Length of a prompt; repeatable, metrics without a length are of the first.")  # fmt: skip
@click.option("--new-tokens", type=click.IntRange(1), help="Tokens of an answer.")
@click.option("--seed", type=int, help="Draws prompts and questions.")
@click.option("--text", type=_PATH, help="Text to cut prompts from: a file or folder.  [default: Python's reference]")
@click.option("--bundle", type=_PATH, help="Folder of the bundle.  [default: bundle in the home folder]")
@click.option("--index", type=_PATH, help="File of the index.  [default: index.db in the home folder]")
@click.option("--config", type=_PATH, help="Configuration (YAML).  [default: config.yaml in the home folder]")
@memory_budget_option
@json_option
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> int | None:
    """Measure this box, alone or in turns with a peer.

    Exits with 1 where a peer fails: our own figures are printed all the same, and what there is goes to OUT.partial.
    """
    if context.invoked_subcommand is not None:
        return None
    return _measure(**options)


def _measure(
    suites: tuple[str, ...],
    peers: tuple[str, ...],
    peer_model: str | None,
    out: Path | None,
    bundle: Path | None,
    index: Path | None,
    config: Path | None,
    memory_budget: str | None,
    as_json: bool,
    **settings: Any,
) -> int:
    from edge.bench.result import to_json, write
    from edge.bench.run import run
    from edge.box import Box

    chosen = SUITES if "all" in suites else suites
    told = _settings(**settings)
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}")
    given = Box.open(bundle=bundle, index=index, config=config, memory_budget=memory_budget, on_note=_warn)
    with _stopped_by_signals(), given as box, _bars(as_json) as track:
        result = run(box, told, chosen, peers, peer_model=peer_model, track=track, warn=_warn)
    if as_json:
        print_json(to_json(result))
    else:
        _print_result(result)
    if out is not None:
        written = write(result, out)
        click.echo(f"written to {written}", err=True)
    for error in result.errors:
        click.echo(f"edge: {error}", err=True)
    return 0 if result.complete else 1


@bench.command()
@click.argument("before", metavar="A.json", type=_PATH)
@click.argument("after", metavar="B.json", type=_PATH)
@click.option("--fail-if", "expressions", multiple=True, metavar="EXPRESSION",
              help='A regression: "decode_tok_per_sec_p50 < 0.95x" (of A) or "ttft_sec_p95 > 2".')  # fmt: skip
@json_option
def compare(before: Path, after: Path, expressions: tuple[str, ...], as_json: bool) -> int:
    """Compare two results.

    Exits with 4 where an expression of --fail-if holds.
    """
    from edge.bench.compare import differences, judge, parse, table

    conditions = [parse(expression) for expression in expressions]
    old, new = _whole(before), _whole(after)
    failures = judge(conditions, old, new)
    notes = differences(old, new)
    if as_json:
        print_json({
            "regressions": [str(failure) for failure in failures],
            "differences": notes,
            "metrics": [dataclasses.asdict(row) for row in table(old, new)],
        })  # fmt: skip
    else:
        _print_rows([(row.metric, row.before, row.after, row.ratio) for row in table(old, new)], "A", "B", "B ÷ A")
        for note in notes:
            click.echo(f"not the same in A and B: {note}", err=True)
        for failure in failures:
            click.echo(f"regression: {failure}", err=True)
    return REGRESSION if failures else 0


@bench.command()
@click.argument("files", metavar="A.json...", nargs=-1, required=True, type=_PATH)
@click.option("--html", type=_PATH, required=True, help="Write the page here.")
@json_option
def report(files: tuple[Path, ...], html: Path, as_json: bool) -> int:
    """Draw results as one HTML page that needs nothing else. Needs the extra `bench`."""
    from edge.bench.report import page
    from edge.bench.result import read
    from edge.files import write_atomic

    text = page([(file.name, read(file)) for file in files])
    try:
        write_atomic(html, text)
    except OSError as error:
        raise UsageError(f"--html {html}: cannot be written: {error.strerror or error}") from None
    if as_json:
        print_json({"html": str(html), "bytes": len(text.encode())})
    else:
        click.echo(f"written to {html}", err=True)
    return 0


def _settings(
    settings: Path | None,
    lengths: tuple[int, ...],
    formats: tuple[str, ...],
    new_tokens: int | None,
    **given: Any,
) -> BenchConfig:
    """The file of settings, or the defaults, with what the command line says."""
    from edge.bench.config import BenchConfig
    from edge.config import load

    told = load(BenchConfig, settings) if settings else BenchConfig()
    latency = {"prompt_tokens": lengths or None, "new_tokens": new_tokens}
    try:
        replaced: BenchConfig = _replaced(
            told,
            latency=_replaced(told.latency, **latency),
            peer=_replaced(told.peer, formats=formats or None),
            **given,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    return replaced


def _replaced(value: Any, **changes: Any) -> Any:
    return dataclasses.replace(value, **{name: change for name, change in changes.items() if change is not None})


def _whole(path: Path) -> Result:
    """A result to compare with.

    :raises ResultError: it cannot be read, or its run failed.
    """
    from edge.bench.result import read
    from edge.errors import ResultError

    result = read(path)
    if not result.complete:
        raise ResultError(f"{path}: the result of a run that failed ({'; '.join(result.errors)}): run it again")
    return result


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the run as Ctrl-C does, so that nothing is left running or half written."""

    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bars(hidden: bool) -> Iterator[Track]:
    """Progress bars on stderr, one at a time; nothing where hidden or no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console(), disable=hidden or not console().is_terminal, transient=True,
    )  # fmt: skip

    def track(items: Iterable[T], description: str, /) -> Iterator[T]:
        task = bar.add_task(description, total=len(items) if isinstance(items, Sized) else None)
        for item in items:
            yield item
            bar.advance(task)
        bar.remove_task(task)

    with bar:
        yield track


def _warn(message: str) -> None:
    click.echo(f"edge: {message}", err=True)


def _print_result(result: Result) -> None:
    """Our figures, and beside them each peer's with the ratio."""
    for name, suite in result.suites.items():
        click.echo(f"\n{name}")
        _print_rows([(metric, value) for metric, value in suite.metrics.items()], "edge")
        for reason in sorted(set(suite.reasons.values())):
            names = [metric for metric, why in suite.reasons.items() if why == reason]
            click.echo(f"  null ({', '.join(names)}): {reason}", err=True)
        for peer in result.peers:
            if name in peer.suites and peer.ratios:
                theirs = peer.suites[name].metrics
                rows = [(m, suite.metrics[m], theirs[m], peer.ratios[m]) for m in suite.metrics if m in peer.ratios]
                if rows:
                    click.echo(f"\n{name}, {peer.name}")
                    _print_rows(rows, "edge", "peer", "edge ÷ peer")


def _print_rows(rows: list[tuple[Any, ...]], *titles: str) -> None:
    click.echo(f"  {'':34}" + "".join(f"{title:>14}" for title in titles))
    for metric, *values in rows:
        click.echo(f"  {metric:34}" + "".join(f"{_shown(value):>14}" for value in values))


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
