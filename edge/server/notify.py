"""systemd's three protocols for a daemon, without its library: readiness and watchdog, and sockets that are passed in.

    sockets = passed_sockets()                    # [] where nobody passed any
    systemd = Notifier.from_environment()         # does nothing where there is no systemd
    systemd.ready("2 keys, bundle smollm2-135m-int8")
    systemd.watchdog()                            # every `systemd.watchdog_sec`

Both take their variables out of the environment: children are not the daemon, and must not speak for it.
Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from edge.errors import ConfigError

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_SEND_SEC = 1.0  # the daemon never waits longer for a service manager that does not read


class Notifier:
    """Tells the service manager about this process. Every call returns whether it was told; none raises.

    :param address: NOTIFY_SOCKET: a path, or "@" and an abstract name; None where nobody listens.
    :param watchdog_sec: seconds between two calls of `watchdog`: half of what the service manager waits; None: no need.
    """

    def __init__(self, address: str | None, watchdog_sec: float | None = None) -> None:
        self.watchdog_sec = watchdog_sec
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address and self._address.startswith(("/", "\0")):
            # Opened once: a daemon without a free descriptor is still alive, and must be able to say so. Not connected:
            # a service manager that starts anew has another socket under the same name.
            with suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.settimeout(_SEND_SEC)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """What the environment says, removed from it. Call it before any child is started."""
        address = environment.pop("NOTIFY_SOCKET", None)
        usec, pid = environment.pop("WATCHDOG_USEC", None), environment.pop("WATCHDOG_PID", None)
        is_ours = pid is None or _number(pid) == os.getpid()
        timeout_usec = _number(usec) if is_ours else 0
        return cls(address, timeout_usec / 2e6 if timeout_usec else None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._socket is not None

    def ready(self, status: str = "") -> bool:
        """The daemon answers, at its start or again after a reload."""
        return self._send("READY=1", status)

    def reloading(self, status: str = "") -> bool:
        """A reload begins; `ready` ends it."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", status)

    def stopping(self, status: str = "") -> bool:
        """The daemon takes no more requests and will end."""
        return self._send("STOPPING=1", status)

    def watchdog(self) -> bool:
        """The daemon is well: its loop runs, and its engine is idle or makes tokens."""
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send("", text)

    def extend_timeout(self, seconds: float) -> bool:
        """Starting, reloading or stopping goes on, and will take up to `seconds` more."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def close(self) -> None:
        """Nothing is sent after it."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _send(self, fields: str, status: str = "") -> bool:
        lines = [fields] if fields else []
        if status:
            lines.append(f"STATUS={' '.join(status.split())}")  # a line break would begin another field
        if self._socket is None or self._address is None or not lines:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):  # nobody reads it: that is no reason to answer nobody
            return False
        return True


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening socket that the service manager opened."""

    name: str  # of LISTEN_FDNAMES: the socket unit's name, or its FileDescriptorName=
    socket: socket.socket


def passed_sockets(environment: MutableMapping[str, str] = os.environ) -> list[PassedSocket]:
    """The sockets that were passed to this process, closed in its children; [] where there are none.

    The variables are removed from the environment.

    :raises ConfigError: what was passed is no listening stream socket.
    """
    pid, count = environment.pop("LISTEN_PID", None), environment.pop("LISTEN_FDS", None)
    names = (environment.pop("LISTEN_FDNAMES", None) or "").split(":")
    if pid is None or _number(pid) != os.getpid():
        return []
    found = []
    for place in range(_number(count)):
        name = names[place] if place < len(names) and names[place] else "unknown"
        found.append(PassedSocket(name, _listening(_FIRST_FD + place, name)))
    return found


def _listening(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        is_listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError as error:
        raise _unusable(descriptor, name, error.strerror or "") from None
    if passed.type != socket.SOCK_STREAM or not is_listening:
        passed.close()
        raise _unusable(descriptor, name, "it does not listen for connections")
    return passed


def _unusable(descriptor: int, name: str, why: str) -> ConfigError:
    return ConfigError(
        f"descriptor {descriptor} ({name}), passed by the service manager, is no listening stream socket: {why}. "
        "The socket unit must have ListenStream= and Accept=no"
    )


def _number(text: str | None) -> int:
    """A count of the environment; 0 where it is none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
