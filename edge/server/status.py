"""Whether the daemon lives, whether it can answer, and what it does."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge import bundle as bundles
from edge.errors import EdgeError
from edge.machine import status_bytes
from edge.server.replies import json_response
from edge.server.requests import service_of
from edge.server.service import Service

LEAST_FREE_BYTES = 32 * 2**20
"""Of the disk that holds index and documents; with less, nothing can be written."""


async def healthz(_: Request) -> Response:
    """Alive: the loop answers."""
    return json_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether a question would be answered: the bundle is whole, the index is there, the disk is not full."""
    service = service_of(request)
    problems = await asyncio.to_thread(_problems, service, request.app.state.state)
    if request.app.state.is_draining:
        problems.append("the daemon is ending")
    return json_response({"ready": not problems, "problems": problems}, 503 if problems else 200)


def _problems(service: Service, state: Path) -> list[str]:
    found = []
    try:
        bundles.load(service.bundle.path)
    except EdgeError as error:
        found.append(str(error))
    index = Path(service.backend.settings.index)
    if not index.is_file():
        found.append(f"there is no index at {index}: send a document, or run `edge ingest`")
    for folder in {state, index.parent}:
        if folder.is_dir() and shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            found.append(f"the disk of {folder} is full")
    return found


async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def status(request: Request) -> Response:
    """What the page shows live: memory by ledger line, tokens per second, the queue."""
    service = service_of(request)
    gate, state = service.gate, service.backend.state
    processes: dict[str, Any] = {}
    for name, pid in service.metrics.processes():
        try:
            processes[name] = {"rss_bytes": status_bytes("VmRSS", pid), "private_bytes": status_bytes("RssAnon", pid)}
        except OSError:
            continue  # it has ended
    return json_response(
        {
            "model": service.bundle.manifest.name,
            "bundle": service.bundle.digest,
            "loaded": service.backend.pid is not None,
            "running": gate.running,
            "waiting": gate.waiting,
            "slots": gate.slots,
            "decode_tok_per_sec": service.metrics.rate_tok_per_sec,
            "memory": {
                "ledger": [{"line": name, "kind": kind, "bytes": size} for name, kind, size in state.get("lines", ())],
                "budget_bytes": state.get("budget_bytes"),
                "processes": processes,
            },
            "notes": state.get("notes", []),
            "pending_documents": request.app.state.documents.pending,
        }
    )


async def openapi(_: Request) -> Response:
    """The OpenAPI document."""
    from edge.server.openapi import document  # its structs are for this alone

    return json_response(document())
