"""`edge service`: the daemon as a systemd service."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli.common import json_option, print_json, print_note
from edge.errors import EdgeError, UsageError
from edge.sizes import parse_size

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.service.units import Settings

_PATH = click.Path(path_type=Path)
_INSTALLED = "installed"


def _folder_options(command: Callable[..., int]) -> Callable[..., int]:
    unit = click.option("--unit-dir", type=_PATH, default=Path("/etc/systemd/system"), show_default=True,
                        help="Folder of the unit files.")  # fmt: skip
    users = click.option("--sysusers-dir", type=_PATH, default=Path("/etc/sysusers.d"), show_default=True,
                         help="Folder of the file that makes the service's user.")  # fmt: skip
    return unit(users(command))


@click.group()
def service() -> None:
    """Run `edge serve` under systemd: as a user of its own, without network but its socket, within its memory."""


@service.command()
@click.option("--bundle", type=_PATH, help="Folder of the bundle.  [default: /var/lib/edge-slm/bundle]")
@click.option("--index", type=_PATH, help="File of the index.  [default: /var/lib/edge-slm/index.db]")
@click.option("--listen", metavar="HOST:PORT|unix:PATH", help="Of this machine.  [default: server.listen]")
@click.option("--memory-max", metavar="SIZE", help="Memory of the service.  [default: what `edge plan` says, and some]")
@_folder_options
@click.option("--force", is_flag=True, help="Write over what was changed by hand.")
@click.option("--dry-run", is_flag=True, help="Print the files, write nothing.")
@json_option
def install(
    bundle: Path | None,
    index: Path | None,
    listen: str | None,
    memory_max: str | None,
    unit_dir: Path,
    sysusers_dir: Path,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Write edge.service, edge.socket and the file that makes their user. Starts nothing; says what to run next.

    The service's configuration is /var/lib/edge-slm/config.yaml, where there is one.
    """
    from edge.service import files
    from edge.service.units import render

    settings = _settings(bundle, index, listen, memory_max)
    texts = render(settings)
    unseen = _unseen(settings)
    if dry_run:
        _print_texts(texts, as_json)
        for reason in unseen:
            print_note(reason)
        return 0
    if unseen:
        raise UsageError("; ".join(unseen))
    written = files.install(texts, unit_dir, sysusers_dir, force=force)
    steps = _next_steps(sysusers_dir, is_running="active" in _active().values())
    if settings.reaches:
        print_note(
            f"the service has no network, so server.traces ({settings.reaches}) is out of its reach: `systemctl edit "
            "edge.service`, and give it PrivateNetwork=no, IPAddressAllow=localhost, RestrictAddressFamilies=AF_INET"
        )
    if as_json:
        print_json({"written": [str(path) for path in written], "memory_max_bytes": settings.memory_max, "next": steps})
        return 0
    click.echo("\n".join(f"{path} written" for path in written) or "nothing has changed")
    click.echo("\nnext, as root:\n" + "\n".join(f"  {step}" for step in steps))
    return 0


@service.command()
@_folder_options
@json_option
def uninstall(unit_dir: Path, sysusers_dir: Path, as_json: bool) -> int:
    """Remove what install wrote. The user and its folders stay, with the bundle, the index and the keys."""
    from edge.service import files

    removed = files.uninstall(unit_dir, sysusers_dir)
    steps = ["systemctl stop edge.socket edge.service", "systemctl daemon-reload"] if removed else []
    if as_json:
        print_json({"removed": [str(path) for path in removed], "next": steps})
        return 0
    click.echo("\n".join(f"{path} removed" for path in removed) or "nothing was installed")
    if steps:
        click.echo("\nnext, as root:\n" + "\n".join(f"  {step}" for step in steps))
    return 0


@service.command()
@_folder_options
@json_option
def status(unit_dir: Path, sysusers_dir: Path, as_json: bool) -> int:
    """Say of each file whether it is installed, changed by hand, somebody else's or missing; what systemd says; and,
    where the service runs, what keeps it from answering.

    Exits with 1 where not all are as they were installed, or a service that runs cannot answer.
    """
    from edge.service import files
    from edge.service.units import SERVICE, SOCKET

    places = files.look(unit_dir, sysusers_dir)
    active = _active()
    address, problems = None, list[str]()
    if active.get(SERVICE) == "active":  # else asking would start it
        address, problems = _asked(unit_dir / SOCKET)
    if as_json:
        told = {"files": {str(place.path): place.state for place in places}, "active": active}
        print_json(told | {"address": address, "problems": problems})
    else:
        for place in places:
            click.echo(f"{place.state:<10} {place.path}")
        for name, state in active.items():
            click.echo(f"{state:<10} {name}")
        if address is not None and not problems:
            click.echo(f"{'ready':<10} {address}")
        for problem in problems:
            click.echo(f"{'not ready':<10} {problem}")
    return 0 if all(place.state == _INSTALLED for place in places) and not problems else 1


def _settings(bundle: Path | None, index: Path | None, listen: str | None, memory_max: str | None) -> Settings:
    from edge.box import Box
    from edge.service import limits
    from edge.service.units import STATE_FOLDER, Settings

    config = _config(STATE_FOLDER / "config.yaml")
    command = [sys.executable, "-m", "edge", "serve"]
    for name, path in (("--bundle", bundle), ("--index", index)):
        command += [name, str(path.absolute())] if path else []
    if memory_max is not None:
        try:
            size, source = parse_size(memory_max), "As given to `edge service install --memory-max`."
        except ValueError as error:
            raise UsageError(f"--memory-max: {error}") from None
    else:
        current = STATE_FOLDER / "current"
        served = current if current.exists() else STATE_FOLDER / "bundle"
        with Box(bundle or served, index or STATE_FOLDER / "index.db", config) as box:
            size, source = limits.memory_max(box)
    outside = index is not None and not index.absolute().is_relative_to(STATE_FOLDER)
    return Settings(
        command=tuple(command),
        listen=listen or config.server.listen,
        memory_max=size,
        memory_source=source,
        writable=(index.absolute().parent,) if index is not None and outside else (),
        drain_sec=config.server.drain_sec,
        silence_sec=config.engine.silence_sec,
        reaches=config.server.traces,
    )


def _config(path: Path) -> EdgeConfig:
    from edge.config import EdgeConfig, load

    try:
        path.stat()
    except FileNotFoundError:
        return EdgeConfig()
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read: {error.strerror}; run this with sudo") from None
    return load(EdgeConfig, path)


def _unseen(settings: Settings) -> list[str]:
    """What the service would need and not see, for a person; empty where all is well."""
    from edge.service.units import is_hidden

    reasons = []
    programs = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2]}
    if hidden := sorted(str(path) for path in programs if is_hidden(path)):
        reasons.append(
            f"the service sees no home and no temporary folder, and this program needs {', '.join(hidden)}: install it "
            "elsewhere (`python3 -m venv /opt/edge-slm && /opt/edge-slm/bin/pip install edge-slm`) and run "
            "/opt/edge-slm/bin/edge service install"
        )
    given = {Path(argument) for argument in settings.command[1:] if argument.startswith("/")}
    if hidden := sorted(str(path) for path in given if is_hidden(path)):
        reasons.append(f"the service does not see {', '.join(hidden)}: put it below /var/lib/edge-slm or /srv")
    return reasons


def _print_texts(texts: dict[str, str], as_json: bool) -> None:
    from edge.service.files import marked

    if as_json:
        print_json({"files": {name: marked(text) for name, text in texts.items()}})
        return
    for name, text in texts.items():
        click.echo(f"### {name}\n{marked(text)}")


def _next_steps(sysusers_dir: Path, *, is_running: bool) -> list[str]:
    from edge.service.units import STATE_FOLDER, SYSUSERS

    if is_running:  # it is set up; what was written holds from its next start on
        return ["systemctl daemon-reload", "systemctl restart edge.socket edge.service"]
    return [
        f"systemd-sysusers {sysusers_dir / SYSUSERS}",
        "systemctl daemon-reload",
        "systemctl enable --now edge.socket",
        f"edge key create NAME --scope ask --scope search --state {STATE_FOLDER / 'daemon'}",
    ]


def _asked(socket_unit: Path) -> tuple[str | None, list[str]]:
    """Where the service listens, and what keeps it from answering."""
    from edge.service.ready import address_of, problems

    address = address_of(socket_unit)
    return address, problems(address) if address is not None else []


def _active() -> dict[str, str]:
    """What systemd says of the units; empty where it does not run."""
    from edge.service.units import SERVICE, SOCKET

    program = shutil.which("systemctl")
    if program is None or not Path("/run/systemd/system").is_dir():
        return {}
    done = subprocess.run([program, "is-active", SOCKET, SERVICE], capture_output=True, text=True, check=False)
    return dict(zip((SOCKET, SERVICE), done.stdout.split(), strict=False))
