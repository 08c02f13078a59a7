"""Whether the service can answer, asked where its socket listens."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_TIMEOUT_SEC = 5.0
_STREAM = "ListenStream="


def address_of(unit: Path) -> str | None:
    """Where a socket unit listens: HOST:PORT or an absolute path; None where that cannot be read."""
    try:
        lines = unit.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((line.removeprefix(_STREAM) for line in lines if line.startswith(_STREAM)), None)


def problems(address: str) -> list[str]:
    """What keeps the daemon at an address from answering questions, for a person; empty where nothing does."""
    connection = _Connection(address)
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        found: Any = json.loads(connection.getresponse().read())
        return [str(one) for one in found["problems"]]
    except PermissionError:
        return [f"{address}: only its group may ask; run this with sudo"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        return [f"{address}: no answer: {error}"]
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SEC)
        self._address = address

    def connect(self) -> None:
        if not self._address.startswith("/"):
            host, _, port = self._address.rpartition(":")
            self.sock = socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_SEC)
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_SEC)
        self.sock.connect(self._address)
