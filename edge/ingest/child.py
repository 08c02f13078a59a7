"""The parser process: reads one file after the other for `edge.ingest.read`, under limits that hold for it alone.

Run as `python -m edge.ingest.child` by `edge.ingest.read.Reader`; speaks `edge.ingest.wire` on stdin and stdout. A file
that crashes it, or lets it hang or grow, costs this process and no other.
"""

from __future__ import annotations

import ctypes
import datetime
import hashlib
import importlib
import logging
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from edge.errors import DocumentError, DocumentTooLarge, UnsupportedDocument
from edge.ingest import wire
from edge.ingest.formats import READERS
from edge.ingest.formats.base import Parsed, Source, no_text, squeeze

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBRARY_BYTES = 1024 * 2**20  # address space for code and mapped files, which is not memory that a file takes
_FILE_BYTES = 256 * 2**20  # the language model unpacks itself into a temporary file of 65 MB
_GRACE_SEC = 5.0
_MAX_REQUEST = 2**20
_TEXT_FACTOR = 2  # characters of text per allowed byte of file: the names of columns stand in every row


def main() -> None:
    """Serve requests until stdin ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    hello = _next(requests)
    if hello is None:
        return
    _die_with(hello["parent"])
    _limit(hello["memory_bytes"])
    wire.send(answers, {"ready": True})
    while (request := _next(requests)) is not None:
        # SIGALRM's default action ends the process even where the parser never comes back and the reader is gone.
        signal.setitimer(signal.ITIMER_REAL, hello["timeout_sec"] + _GRACE_SEC)
        header, parts = _answer(request, hello)
        wire.send(answers, header, parts)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if header.get("error") == "memory":
            return  # what is left of the heap is not worth keeping


def _next(requests: BinaryIO) -> dict[str, Any] | None:
    def read(size: int) -> bytes:
        data = requests.read(size)
        if len(data) < size:
            raise EOFError
        return data

    try:
        return wire.receive(read, _MAX_REQUEST)[0]
    except EOFError:
        return None


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        raise SystemExit(1)


def _limit(memory_bytes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_AS, memory_bytes + _LIBRARY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _answer(request: dict[str, Any], hello: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    try:
        return _read(request, hello)
    except MemoryError:
        return {"error": "memory", "message": ""}, []
    except UnsupportedDocument as error:
        return {"error": "unsupported", "message": str(error)}, []
    except DocumentTooLarge as error:
        return {"error": "large", "message": str(error)}, []
    except DocumentError as error:
        return {"error": "document", "message": str(error)}, []
    except OSError as error:
        return {"error": "document", "message": f"cannot be read: {error.strerror or error}"}, []
    except RecursionError:
        return {"error": "document", "message": "is nested too deeply to be read"}, []
    except Exception as error:  # noqa: BLE001  a parser may raise anything on a damaged file; it is reported as such
        reason = squeeze(f"{type(error).__name__}: {error}", 200)
        return {"error": "document", "message": f"is damaged, or no {request['type']}: {reason}"}, []


def _read(request: dict[str, Any], hello: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    path, limit = Path(request["path"]), hello["max_file_bytes"]
    is_database = request["type"] == "sqlite"
    with path.open("rb") as stream:  # read once: hash, text and date are of the same bytes
        date = datetime.datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, datetime.UTC).date().isoformat()
        data = b"" if is_database else stream.read(limit + 1)
    if len(data) > limit:
        raise DocumentTooLarge("it grew while it was read, above ingest.max_file_bytes")
    digest = hashlib.sha256(data).hexdigest()
    source = Source(
        path, request["type"], data, max_chars=_TEXT_FACTOR * limit, max_unpacked_bytes=hello["memory_bytes"]
    )
    del data
    parsed = importlib.import_module(f"edge.ingest.formats.{READERS[request['type']]}").parse(source)
    del source
    documents, parts = [], []
    while parsed:
        header, body = _pack(parsed.pop(0), digest, path.stem, request["language"])
        documents.append({**header, "date": date})
        parts += body
    return {"documents": documents}, parts


def _pack(parsed: Parsed, digest: str, stem: str, language: str | None) -> tuple[dict[str, Any], list[bytes]]:
    if not any(block.end > block.start for block in parsed.blocks):
        raise no_text("it holds no text")
    if language is None:
        from edge.ingest.language import detect

        language = detect(parsed.text)
    paths, numbers = wire.pack_blocks(parsed.blocks)
    header = {
        "part": parsed.part,
        "sha256": parsed.sha256 or digest,
        "title": squeeze(parsed.title or stem, 120),
        "language": language,
        "paths": paths,
    }
    return header, [parsed.text.encode(), numbers]


if __name__ == "__main__":
    main()
