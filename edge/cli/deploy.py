"""`edge deploy`, `edge releases`, `edge rollback`: bundles on this box."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli import reindex
from edge.cli.common import human_bytes, json_option, memory_budget_option, print_json, print_note
from edge.cli.registry import byte_bar, told, with_registry
from edge.files import home

if TYPE_CHECKING:
    from edge.deploy.archive import Archive
    from edge.deploy.host import ThisHost
    from edge.deploy.install import Options
    from edge.deploy.registry.http import Settings

_PATH = click.Path(path_type=Path)
_root_option = click.option("--root", type=_PATH, help="Folder of the box.  [default: the home folder]")


@click.group()
def deploy() -> None:
    """Install an archive of a bundle on this box, and show what is installed."""


deploy.add_command(reindex.reindex)


@deploy.command()
@click.argument("source")
@click.option("--trusted", type=_PATH, help="Trust file.  [default: trust.yaml in the folder of the box]")
@click.option("--allow-unsigned", is_flag=True, help="Install it whoever made it.")
@click.option("--allow-downgrade", is_flag=True, help="Install it though a newer release has been here.")
@click.option("--keep", type=click.IntRange(0), default=2, show_default=True,
              help="Releases that stay beside the current and the previous one.")  # fmt: skip
@click.option("--config", type=_PATH, help="Configuration for the trial.  [default: config.yaml of the box]")
@click.option("--check", is_flag=True, help="Say what would be done, or why it is refused; nothing is written.")
@_root_option
@memory_budget_option
@json_option
@with_registry
def install(
    settings: Settings,
    source: str,
    trusted: Path | None,
    allow_unsigned: bool,
    allow_downgrade: bool,
    keep: int,
    config: Path | None,
    check: bool,
    root: Path | None,
    memory_budget: str | None,
    as_json: bool,
) -> int:
    """Check SOURCE, try it out and serve it. If anything fails, the box serves what it served before.

    SOURCE is an archive, which needs no network, or what a registry holds: registry/name:tag,
    registry/name@sha256:DIGEST.
    """
    from edge.deploy.host import ThisHost
    from edge.deploy.install import Options, install
    from edge.deploy.registry import reference as references
    from edge.deploy.registry.pull import install_from

    folder, pulled = root or home(), None
    options = Options(trusted, allow_unsigned, allow_downgrade, keep)
    host = ThisHost(folder, config, memory_budget)
    if check:
        return _foresee(source, folder, options, settings, host, as_json)
    if references.is_meant(source) and not Path(source).exists():
        with byte_bar(hidden=as_json) as on_progress:
            reference = references.parse(source)
            done, pulled = install_from(reference, folder, options, settings, host=host, on_progress=on_progress)
    else:
        done = install(Path(source), folder, options, host=host)
    was_told = _tell_daemon(folder)
    if as_json:
        print_json(asdict(done) | ({"pulled": asdict(pulled)} if pulled else {}))
        return 0
    if pulled is not None:
        click.echo(told(pulled))
    for note in done.notes:
        print_note(note)
    by = f"signed by {done.verified.name}, release {done.verified.release}" if done.verified else "not trusted"
    click.echo(f"release {done.name[:12]} {'waits for its index' if done.waits else 'is served'} ({by})")
    if done.waits:
        reindex.tell_of_waiting(was_told)
    if done.smoke is not None:
        slowest = max(done.smoke.answer_sec)
        memory = human_bytes(done.smoke.private_peak_bytes)
        click.echo(f"tried out: loaded in {done.smoke.load_sec:.1f} s, answered in {slowest:.1f} s, {memory} private")
    return 0


def _foresee(source: str, root: Path, options: Options, settings: Settings, host: ThisHost, as_json: bool) -> int:
    """Say what `install` would do, as far as it can be known without writing."""
    from edge.deploy.archive import Archive as Archives
    from edge.deploy.install import precheck
    from edge.deploy.links import refused, release_of, served
    from edge.deploy.registry import reference as references
    from edge.deploy.registry.pull import connected, releases_of

    with ExitStack() as stack:
        with refused(root):
            is_remote = references.is_meant(source) and not Path(source).exists()
            opened: AbstractContextManager[Archive] = (
                connected(references.parse(source), settings, reuse=releases_of(root))
                if is_remote
                else Archives.open(Path(source))
            )
            archive = stack.enter_context(opened)
        precheck(archive, root, options, host=host)
        before = served(root)
    changes = not (release_of(before) or "").startswith(archive.digest)
    if as_json:
        print_json({"release": archive.digest, "served": before, "changes": changes})
    else:
        click.echo(f"release {archive.digest[:12]} {'would be installed' if changes else 'is served already'}")
    return 0


@deploy.command()
@_root_option
@json_option
def status(root: Path | None, as_json: bool) -> int:
    """Show what this box serves, what it would go back to, and the oldest release that it would take."""
    from edge.deploy.links import CURRENT, PREVIOUS, served, target_of
    from edge.deploy.reindex import look
    from edge.deploy.releases import read_state

    folder = (root or home()).resolve()
    state, step = read_state(folder), look(folder)
    found = {
        "served": served(folder),
        CURRENT: target_of(folder, CURRENT),
        PREVIOUS: target_of(folder, PREVIOUS),
        "next": asdict(step) if step.target is not None else None,
        "release": state.release if state.archive else None,
        "seen": state.seen if state.archive else None,
        "trust": (folder / "trust.yaml").is_file(),
    }
    if as_json:
        print_json(found)
        return 0
    click.echo(f"serves    {found['served'] or 'nothing yet'}")
    click.echo(f"previous  {found[PREVIOUS] or 'none'}")
    if step.target is not None:
        click.echo(f"next      {reindex.sentence(step)}")
    release = f"{state.release}, signed {state.seen}; an older one is refused" if state.archive else "none signed yet"
    click.echo(f"release   {release}")
    click.echo(f"trust     {folder / 'trust.yaml' if found['trust'] else 'no trust.yaml: nothing is trusted'}")
    return 0


@click.command()
@click.option("--prune", "keep", type=click.IntRange(0), is_flag=False, flag_value="2", metavar="[N]",
              help="Remove the oldest but for N (2), the current one and the previous one.")  # fmt: skip
@click.option("--verify", is_flag=True, help="Read every byte of all of them.")
@_root_option
@json_option
def releases(keep: int | None, verify: bool, root: Path | None, as_json: bool) -> int:
    """List the releases on this box, in the order of installation."""
    from edge.deploy.disk import Disk
    from edge.deploy.links import RELEASES, refused
    from edge.deploy.releases import locked, prune, releases, verify_release

    folder = (root or home()).resolve()
    if keep is not None:
        with refused(folder), locked(folder, Disk()):
            for name in prune(folder, Disk(), keep):
                print_note(f"removed {name}")
    found = releases(folder)
    if verify:
        with refused(folder):
            for one in found:
                verify_release(folder, f"{RELEASES}/{one.name}/bundle")
    if as_json:
        print_json({"releases": [asdict(one) for one in found]})
        return 0
    if not found:
        click.echo("there are no releases: `edge deploy install FILE` makes the first")
    for one in found:
        marks = (("current", one.is_current), ("previous", one.is_previous), ("next", one.is_next))
        mark = next((name for name, is_so in marks if is_so), "")
        number = "unsigned" if one.release is None else f"release {one.release}"
        click.echo(f"{one.name[:12]}  {mark:<8}  {number:<20}  {human_bytes(one.bytes):>10}  {one.bundle or 'damaged'}")
    return 0


@click.command()
@click.option("--to", metavar="DIGEST", help="A release by the first digits of its name.  [default: the previous one]")
@_root_option
@json_option
def rollback(to: str | None, root: Path | None, as_json: bool) -> int:
    """Serve the previous release again; what is served now becomes the previous one."""
    from edge.deploy.links import NEXT, target_of
    from edge.deploy.releases import rollback

    folder = root or home()
    target = rollback(folder, to=to)
    was_told, waits = _tell_daemon(folder), target_of(folder, NEXT) == target
    if as_json:
        print_json({"waits" if waits else "current": target})
        return 0
    click.echo(f"{target} {'waits for its index' if waits else 'is served'}")
    if waits:
        reindex.tell_of_waiting(was_told)
    return 0


def _tell_daemon(root: Path) -> bool:
    """Have a daemon that runs on this box serve what is current now; whether one was told."""
    from edge.errors import ConfigError
    from edge.server.lock import reload_daemon

    try:
        if reload_daemon(root.resolve() / "index.db"):
            print_note("the daemon was told; its log says when it serves it")
            return True
    except ConfigError as error:
        print_note(str(error))
    return False
