"""Asks a daemon whether it is alive, for a container's health check: exit code 0 or 1.

    python -m edge.server.health unix:/run/edge-slm/edge.sock        # or HOST:PORT

Nothing but the standard library is loaded: it runs every half minute beside the daemon, in the same memory.
"""

from __future__ import annotations

import socket
import sys

_TIMEOUT_SEC = 5.0
_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def problem(address: str) -> str | None:
    """What is wrong with the daemon at an address (`unix:PATH` or HOST:PORT), for a person; None where it is alive."""
    try:
        with _connected(address) as connection:
            connection.sendall(_REQUEST)
            with connection.makefile("rb") as answer:
                line = answer.readline(200)
    except (OSError, ValueError) as error:
        return f"{address}: no answer: {error}"
    words = line.decode("latin-1").split()
    if len(words) > 1 and words[0].startswith("HTTP/1.") and words[1] == "200":
        return None
    return f"{address}: /healthz says {' '.join(words) or 'nothing'}"


def _connected(address: str) -> socket.socket:
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_SEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_TIMEOUT_SEC)
        connection.connect(address.removeprefix("unix:"))
    except OSError:
        connection.close()
        raise
    return connection


def main() -> None:
    """Ask the daemon at the address on the command line; exits with 1 and a line on stderr where it is not well."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m edge.server.health unix:PATH|HOST:PORT")
    sys.exit(problem(sys.argv[1]))


if __name__ == "__main__":
    main()
