"""The text of the unit files (pure).

    render(Settings(command=(sys.executable, "-m", "edge", "serve"), listen="127.0.0.1:8642", ...))["edge.service"]

Sources: systemd.syntax(7) and systemd.service(5), "Command lines", for what has to be escaped.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from string import Template

from edge.errors import UsageError

USER = "edge-slm"
STATE = "edge-slm"
"""Name of the folders below /var/lib, /var/cache and /run."""
STATE_FOLDER = Path("/var/lib") / STATE
SERVICE, SOCKET, SYSUSERS = "edge.service", "edge.socket", "edge-slm.conf"
HIDDEN_FOLDERS = tuple(Path(name) for name in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))
"""What the service does not see: ProtectHome= and PrivateTmp=."""
_STOP_EXTRA_SEC = 15
"""After the drain: time for the engine to end, and for the index to be closed."""
_WATCHDOG_EXTRA_SEC = 60
_SOCKET_PATH_BYTES = 107  # unix(7)
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@+,-]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an installation decides."""

    command: tuple[str, ...]  # absolute path of the program, and its arguments
    listen: str  # HOST:PORT of this machine, PORT, or unix:PATH
    memory_max: int  # bytes
    memory_source: str  # for a person: where the figure comes from
    writable: tuple[Path, ...] = ()  # folders beyond the service's own
    drain_sec: float = 30.0  # `server.drain_sec` of the configuration
    silence_sec: float = 120.0  # `engine.silence_sec`
    reaches: str | None = None  # `server.traces`: what the service would need a network for


def render(settings: Settings) -> dict[str, str]:
    """The files of an installation, by name, without the line that marks them as ours.

    :raises UsageError: the address reaches beyond this machine, or something cannot be written into a unit.
    """
    stream, is_path = listen_stream(settings.listen)
    writable = "".join(f"ReadWritePaths={_quoted(str(folder))}\n" for folder in settings.writable)
    common = {"user": USER, "state": STATE}
    service = {
        "command": " ".join(_quoted(argument, command=True) for argument in settings.command),
        "stop_sec": int(settings.drain_sec) + _STOP_EXTRA_SEC,
        "watchdog_sec": int(settings.silence_sec) + _WATCHDOG_EXTRA_SEC,
        "memory_source": " ".join(settings.memory_source.split()).rstrip("\\"),
        "memory_max": settings.memory_max,
        "writable": writable,
        "writable_note": ", and the index's" if writable else "",
    }
    access = (
        f"# Who is in the group may ask.\nSocketUser=root\nSocketGroup={USER}\nSocketMode=0660\n"
        if is_path
        else "IPAddressAllow=localhost\nIPAddressDeny=any\n"
    )
    return {
        SERVICE: _filled(SERVICE, common | service),
        SOCKET: _filled(SOCKET, {"stream": stream, "access": access}),
        SYSUSERS: _filled(SYSUSERS, common),
    }


def listen_stream(listen: str) -> tuple[str, bool]:
    """An address as `ListenStream=` has it, and whether it is the path of a Unix socket.

    :raises UsageError: it is none, or reaches beyond this machine.
    """
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        plain = path.startswith("/") and ".." not in PurePosixPath(path).parts and _PLAIN.fullmatch(path)
        if not plain or len(path) > _SOCKET_PATH_BYTES:  # ListenStream= knows no quotes
            raise UsageError(
                f"--listen {listen!r}: write unix: and an absolute path of letters, digits and ./-_, at most "
                f"{_SOCKET_PATH_BYTES} of them"
            )
        if is_hidden(Path(path)):
            raise UsageError(f"--listen {listen}: take a path below /run, such as unix:/run/{STATE}/edge.sock")
        return path, True
    host, _, port = listen.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"--listen {listen}: write HOST:PORT, PORT or unix:PATH")
    bare = host.removeprefix("[").removesuffix("]")
    bare = "127.0.0.1" if bare in ("", "localhost") else bare
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise UsageError(f"--listen {listen}: {bare!r} is no address; take 127.0.0.1, [::1] or unix:PATH") from None
    if not address.is_loopback:
        raise UsageError(
            f"--listen {listen} reaches beyond this machine: the service listens on loopback or a Unix socket; put a "
            "proxy with TLS before it, or run `edge serve` with a key and TLS"
        )
    return (f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"), False


def is_hidden(path: Path) -> bool:
    """Whether the service does not see a path."""
    return any(path.is_relative_to(folder) for folder in HIDDEN_FOLDERS)


def _filled(name: str, values: Mapping[str, object]) -> str:
    text = files("edge.service").joinpath("templates", f"{name}.in").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _quoted(text: str, *, command: bool = False) -> str:
    """One word of a unit file; in a command line a dollar would begin a variable."""
    if not text.isprintable():
        raise UsageError(f"{text!r} cannot stand in a unit file: take a path without control characters")
    if _PLAIN.fullmatch(text):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text.replace("$", "$$") if command else text}"'
