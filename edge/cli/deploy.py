"""`edge deploy`, `edge releases`, `edge rollback`: bundles on this box."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edge.cli.common import human_bytes, json_option, memory_budget_option, print_json, print_note
from edge.files import home

_PATH = click.Path(path_type=Path)
_root_option = click.option("--root", type=_PATH, help="Folder of the box.  [default: the home folder]")


@click.group()
def deploy() -> None:
    """Install an archive of a bundle on this box, and show what is installed."""


@deploy.command()
@click.argument("file", type=_PATH)
@click.option("--trusted", type=_PATH, help="Trust file.  [default: trust.yaml in the folder of the box]")
@click.option("--allow-unsigned", is_flag=True, help="Install it whoever made it.")
@click.option("--allow-downgrade", is_flag=True, help="Install it though a newer release has been here.")
@click.option("--keep", type=click.IntRange(0), default=2, show_default=True,
              help="Releases that stay beside the current and the previous one.")  # fmt: skip
@click.option("--config", type=_PATH, help="Configuration for the trial.  [default: config.yaml of the box]")
@_root_option
@memory_budget_option
@json_option
def install(
    file: Path,
    trusted: Path | None,
    allow_unsigned: bool,
    allow_downgrade: bool,
    keep: int,
    config: Path | None,
    root: Path | None,
    memory_budget: str | None,
    as_json: bool,
) -> int:
    """Check FILE, try it out and serve it. If anything fails, the box serves what it served before.

    Needs no network.
    """
    from edge.deploy.host import ThisHost
    from edge.deploy.install import Options, install

    folder = root or home()
    options = Options(trusted, allow_unsigned, allow_downgrade, keep)
    done = install(file, folder, options, host=ThisHost(folder, config, memory_budget))
    _tell_daemon(folder)
    if as_json:
        print_json(asdict(done))
        return 0
    for note in done.notes:
        print_note(note)
    by = f"signed by {done.verified.name}, release {done.verified.release}" if done.verified else "not trusted"
    click.echo(f"release {done.name[:12]} is served ({by})")
    if done.smoke is not None:
        slowest = max(done.smoke.answer_sec)
        memory = human_bytes(done.smoke.private_peak_bytes)
        click.echo(f"tried out: loaded in {done.smoke.load_sec:.1f} s, answered in {slowest:.1f} s, {memory} private")
    return 0


@deploy.command()
@_root_option
@json_option
def status(root: Path | None, as_json: bool) -> int:
    """Show what this box serves, what it would go back to, and the oldest release that it would take."""
    from edge.deploy.links import CURRENT, PREVIOUS, served, target_of
    from edge.deploy.releases import read_state

    folder = (root or home()).resolve()
    state = read_state(folder)
    found = {
        "served": served(folder),
        CURRENT: target_of(folder, CURRENT),
        PREVIOUS: target_of(folder, PREVIOUS),
        "release": state.release if state.archive else None,
        "seen": state.seen if state.archive else None,
        "trust": (folder / "trust.yaml").is_file(),
    }
    if as_json:
        print_json(found)
        return 0
    click.echo(f"serves    {found['served'] or 'nothing yet'}")
    click.echo(f"previous  {found[PREVIOUS] or 'none'}")
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
        mark = "current" if one.is_current else "previous" if one.is_previous else ""
        number = "unsigned" if one.release is None else f"release {one.release}"
        click.echo(f"{one.name[:12]}  {mark:<8}  {number:<20}  {human_bytes(one.bytes):>10}  {one.bundle or 'damaged'}")
    return 0


@click.command()
@click.option("--to", metavar="DIGEST", help="A release by the first digits of its name.  [default: the previous one]")
@_root_option
@json_option
def rollback(to: str | None, root: Path | None, as_json: bool) -> int:
    """Serve the previous release again; what is served now becomes the previous one."""
    from edge.deploy.releases import rollback

    folder = root or home()
    target = rollback(folder, to=to)
    _tell_daemon(folder)
    if as_json:
        print_json({"current": target})
    else:
        click.echo(f"{target} is served")
    return 0


def _tell_daemon(root: Path) -> None:
    """Have a daemon that runs on this box serve what is current now."""
    from edge.errors import ConfigError
    from edge.server.lock import reload_daemon

    try:
        if reload_daemon(root.resolve() / "index.db"):
            print_note("the daemon was told; its log says when it serves it")
    except ConfigError as error:
        print_note(str(error))
