"""What the daemon listens on."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from edge.config import ServerConfig
from edge.errors import ConfigError, UsageError
from edge.server.guard import is_loopback
from edge.server.keys import Keys
from edge.server.notify import passed_sockets

BACKLOG = 128


@contextlib.contextmanager
def listening(settings: ServerConfig, keys: Keys, *, insecure: bool) -> Iterator[tuple[list[socket.socket], str]]:
    """The sockets to serve on, closed in the end, and how to show them.

    :raises ConfigError: the address is none, is taken, or would let strangers in.
    """
    passed = [one.socket for one in passed_sockets()]
    if passed:
        for one in passed:
            if one.family != socket.AF_UNIX:
                _check_safe(one.getsockname()[0], settings, keys, insecure)
        yield passed, "sockets of the service manager"
        return
    listen = settings.listen
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:")).absolute()
        with _unix(path) as one:
            yield [one], f"unix:{path}"
        return
    host, port = _address(listen)
    _check_safe(host, settings, keys, insecure)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        one = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"{listen}: cannot listen there: {error.strerror}; see --listen") from None
    with one:
        scheme = "https" if settings.tls_key else "http"
        name = f"[{host}]" if ":" in host else host
        yield [one], f"{scheme}://{name}:{one.getsockname()[1]}"


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {listen!r}: write HOST:PORT, such as 127.0.0.1:8642, or unix:PATH")
    return host.strip("[]") or "127.0.0.1", int(port)


def _check_safe(host: str, settings: ServerConfig, keys: Keys, insecure: bool) -> None:
    if is_loopback(host) or insecure:
        return
    missing = [
        what
        for what, is_there in (
            ("a key (`edge key create`)", keys.are_used),
            ("TLS (server.tls_certificate and server.tls_key)", settings.tls_key is not None),
        )
        if not is_there
    ]
    if missing:
        raise ConfigError(
            f"{host} can be reached from other machines, and {' and '.join(missing)} is missing; --insecure serves "
            "there all the same"
        )


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.stat().st_mode) and not _is_served(path):
            path.unlink()  # left behind by a daemon that was killed
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o117)
        try:
            one.bind(str(path))
        finally:
            os.umask(before)
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise ConfigError(f"unix:{path}: cannot listen there: {error.strerror}; see --listen") from None
    try:
        yield one
    finally:
        one.close()
        path.unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
