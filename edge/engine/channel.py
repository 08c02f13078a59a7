"""The wire between `WorkerEngine` and its child: one JSON object a line over a socket pair."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from typing import Any

from edge.types import Logprobs, Token

_READ_BYTES = 65536


class Channel:
    """One end of the wire.

    :raises OSError: on `send`, where the other end is gone.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        self._end.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self, timeout_sec: float | None = None) -> dict[str, Any] | None:
        """The next message, or None after `timeout_sec`; without a timeout it waits.

        :raises EOFError: the other end is gone.
        """
        while b"\n" not in self._buffer:
            if not select.select([self._end], [], [], timeout_sec)[0]:
                return None
            try:
                data = self._end.recv(_READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def shut(self) -> None:
        """End it in both directions: whoever reads, at either end, gets EOFError."""
        with contextlib.suppress(OSError):  # the other end is gone already
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._end.close()


def pack_token(token: Token) -> list[Any]:
    """A token as JSON has it."""
    if token.logprobs is None:
        return [token.id, token.text]
    return [token.id, token.text, token.logprobs.logprob, token.logprobs.top]


def unpack_token(packed: list[Any]) -> Token:
    token_id, text, *rest = packed
    if not rest:
        return Token(token_id, text)
    logprob, top = rest
    return Token(token_id, text, Logprobs(logprob, tuple((entry[0], entry[1], entry[2]) for entry in top)))
