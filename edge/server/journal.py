"""What the daemon writes down: a line of JSON for each request on stderr, and an audit log of changes.

Questions and answers are not among it unless `server.log_prompts` says so.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from h11 import LocalProtocolError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.server.traces import Done

AUDIT_BYTES = 16 * 2**20
"""The audit log is put aside at this size, as audit.1.jsonl, in place of the one put aside before."""
_QUIET = ("/healthz", "/readyz", "/metrics", "/v1/status")


class Journal:
    """Both logs.

    :param state: folder of the audit log.
    """

    def __init__(self, state: Path) -> None:
        self._audit = state / "audit.jsonl"

    def event(self, event: str, **what: Any) -> None:
        """One line on stderr."""
        sys.stderr.write(_line(event, what))
        sys.stderr.flush()

    def texts(self, one: Done, request: str) -> None:
        """What was asked and answered, for `server.log_prompts`."""
        if one.asked:
            self.event("asked", request=request, do=one.do, asked=one.asked, answered=one.answered, error=one.error)

    def audit(self, action: str, **what: Any) -> None:
        """One line in the audit log, which only the daemon's user may read."""
        line = _line(action, what)
        try:
            if self._audit.exists() and self._audit.stat().st_size > AUDIT_BYTES:
                self._audit.replace(self._audit.with_name("audit.1.jsonl"))
            with self._audit.open("a", encoding="utf-8") as stream:
                stream.write(line)
            self._audit.chmod(0o600)
        except OSError as error:
            self.event("audit_failed", error=str(error), action=action, **what)


class Lines(logging.Handler):
    """What libraries log, as lines of the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        where = self.formatter or logging.Formatter()
        more = {"where": where.formatException(record.exc_info)[-4000:]} if record.exc_info else {}
        self._journal.event("log", logger=record.name, level=record.levelname, text=record.getMessage(), **more)


class Requests:
    """ASGI middleware: a line for each request when it ends."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app, self._journal = app, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            with suppress(LocalProtocolError):  # its body broke the protocol: it has been told, and the line is closed
                await send(message)

        try:
            await self._app(scope, receive, send_seen)
        finally:
            if scope["path"] not in _QUIET:
                self._ended(scope, status, time.monotonic() - started)

    def _ended(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope.get("state", {})
        caller = state.get("caller")
        self._journal.event(
            "request",
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
            caller=caller.id if caller else None,
            request=state.get("request_id"),
        )


def _line(event: str, what: dict[str, Any]) -> str:
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": when, "event": event, **what}, ensure_ascii=True) + "\n"
