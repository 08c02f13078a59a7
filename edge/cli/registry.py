"""`edge bundle push` and `pull`, and what they share with `edge deploy install` of a reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from edge.cli.common import console, human_bytes, json_option, print_json, print_note
from edge.errors import UsageError
from edge.sizes import parse_size

if TYPE_CHECKING:
    from edge.deploy.registry.http import Settings
    from edge.deploy.registry.pull import Pulled

P = ParamSpec("P")
R = TypeVar("R")
_PATH = click.Path(path_type=Path)


def with_registry(command: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
    """Add the options that say how to talk to a registry; the command gets them as its first argument."""

    @click.option("--limit-rate", metavar="SIZE", help="Most bytes a second, such as 2MiB.  [default: no limit]")
    @click.option("--timeout", type=click.FloatRange(1), default=30.0, show_default=True, metavar="SEC",
                  help="How long the registry may say nothing.")  # fmt: skip
    @click.option("--plain-http/--tls", default=None,
                  help="Without TLS, or with it.  [default: TLS, but to this machine itself]")  # fmt: skip
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        from edge.deploy.registry.http import Settings

        given: dict[str, Any] = {name: kwargs.pop(name) for name in ("limit_rate", "timeout", "plain_http")}
        settings = Settings(given["plain_http"], _rate(given["limit_rate"]), given["timeout"])
        return command(settings, *args, **kwargs)

    return wrapped


def _rate(value: str | None) -> int | None:
    from edge.deploy.registry.pace import LEAST_RATE

    if value is None:
        return None
    try:
        rate = parse_size(value)
    except ValueError as error:
        raise UsageError(f"--limit-rate: {error}") from None
    if rate < LEAST_RATE:
        raise UsageError(f"--limit-rate {value}: it must be {human_bytes(LEAST_RATE)} a second or more")
    return rate


@click.command()
@click.argument("source", type=_PATH)
@click.argument("reference")
@click.option("--mount-from", metavar="NAME", help="A repository of the same registry that may have layers already.")
@json_option
@with_registry
def push(settings: Settings, source: Path, reference: str, mount_from: str | None, as_json: bool) -> int:
    """Upload SOURCE to an OCI registry as REFERENCE, registry/name:tag; what it has already is not sent.

    SOURCE is an archive, the folder of one that was unpacked, or the folder of a bundle, which goes unsigned.
    """
    from edge.deploy.registry import push as pushes
    from edge.deploy.registry.reference import is_name, parse

    if mount_from is not None and not is_name(mount_from):
        raise UsageError(f"--mount-from {mount_from!r}: no name of a repository; it is without registry and tag")
    target = parse(reference)
    with byte_bar(hidden=as_json) as on_progress:
        done = pushes.push(source, target, settings, mount_from=mount_from, on_progress=on_progress)
    if as_json:
        print_json(asdict(done))
        return 0
    if not done.is_signed:
        print_note("nobody has signed it: boxes refuse it unless told otherwise (`edge bundle sign`)")
    mounted = f", {human_bytes(done.mounted_bytes)} taken from {mount_from}" if done.mounted_bytes else ""
    click.echo(
        f"{done.reference}: sent {human_bytes(done.sent_bytes)} in {done.sent_layers} of {done.layers} layers, "
        f"{human_bytes(done.reused_bytes)} were there{mounted}; {done.seconds:.1f} s"
    )
    click.echo(f"sha256:{done.digest}")
    return 0


@click.command()
@click.argument("reference")
@click.option("-o", "--out", type=_PATH, required=True, help="NAME.edge, or a folder that is not there yet.")
@click.option("--reuse", type=_PATH, multiple=True,
              help="An archive or folder whose files need not be fetched; repeatable. Releases on this box, and OUT "
              "itself, are looked at anyway.")  # fmt: skip
@json_option
@with_registry
def pull(settings: Settings, reference: str, out: Path, reuse: tuple[Path, ...], as_json: bool) -> int:
    """Fetch REFERENCE, registry/name:tag or registry/name@sha256:DIGEST, as the archive or the folder that it is.

    Interrupted, it goes on where it was the next time. Nobody's signature is asked for: `edge bundle verify OUT
    --trusted` and `edge deploy install OUT` do that.
    """
    from edge.deploy.registry import pull as pulls
    from edge.deploy.registry.reference import parse
    from edge.files import home

    source = parse(reference)
    known = [*reuse, *pulls.releases_of(home())]
    with byte_bar(hidden=as_json) as on_progress:
        done = pulls.pull(source, out, settings, reuse=known, on_progress=on_progress)
    if as_json:
        print_json({"path": str(out), **asdict(done)})
    else:
        click.echo(f"{out}: {told(done)}")
        click.echo(f"sha256:{done.digest}")
    return 0


def told(done: Pulled) -> str:
    """What moved, for a person."""
    resumed = f", {human_bytes(done.resumed_bytes)} left by an earlier try" if done.resumed_bytes else ""
    return (
        f"fetched {human_bytes(done.fetched_bytes)} in {done.fetched_layers} of {done.layers} layers, "
        f"{human_bytes(done.reused_bytes)} were here{resumed}; {done.seconds:.1f} s"
    )


@contextmanager
def byte_bar(*, hidden: bool) -> Iterator[Callable[[int], None]]:
    """The bytes that have moved, on stderr; nothing where `hidden` or no terminal."""
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TransferSpeedColumn

    screen = console()
    bar = Progress(
        SpinnerColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        console=screen, disable=hidden or not screen.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda count: bar.advance(task, count)
