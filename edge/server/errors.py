"""One table from errors to HTTP statuses, and the shapes in which clients expect them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edge import errors
from edge.server.gate import Full

STATUSES: dict[type[errors.EdgeError], tuple[int, str]] = {
    errors.UsageError: (400, "invalid_request_error"),
    errors.PromptTooLong: (400, "context_length_exceeded"),
    errors.DocumentTooLarge: (413, "document_too_large"),
    errors.UnsupportedDocument: (415, "unsupported_document"),
    errors.DocumentError: (422, "unreadable_document"),
    errors.EdgeError: (503, "not_ready"),  # bundle, index, memory, model: the box's matter, and it may pass
}
"""The nearest class counts; the second value is the error's `code`."""

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class HttpError(Exception):
    """A request that is refused by itself."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


def http_error(error: Exception) -> HttpError | None:
    """An error as what a client is told; None for a bug."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, Full):
        after = {"Retry-After": str(math.ceil(error.retry_after_sec))}
        return HttpError(429, str(error), "queue_full", after)
    if isinstance(error, errors.EdgeError):
        for kind in type(error).__mro__:
            if kind in STATUSES:
                status, code = STATUSES[kind]
                return HttpError(status, str(error), code, {"Retry-After": "5"} if status == 503 else None)
    return None


def openai_shape(error: HttpError) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}


def ollama_shape(error: HttpError) -> dict[str, Any]:
    return {"error": str(error)}
