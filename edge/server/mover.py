"""Makes the index of a release that waits for it, in the background, and has the daemon serve both.

In slices (`edge.deploy.reindex`), each of them a process of its own that runs when nothing else wants the processor,
and gives way to documents that come in between. Where memory does not hold it beside the model, requests wait for a
slice, and get as long a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from edge.deploy.links import waiting
from edge.errors import EdgeError
from edge.server.documents import Documents

SLICE_SEC = 15.0
_RETRY_SEC = (1.0, 120.0)  # the first time, and at most: each failure doubles it

Tell = Callable[..., None]


class Mover:
    """For a daemon that serves what a box's folder says.

    :param tell: writes an event, with what is known of it.
    :param is_short: whether the model has to go for a slice.
    :param on_served: called when another release is to be served.
    """

    def __init__(
        self,
        root: Path,
        documents: Documents,
        tell: Tell,
        is_short: Callable[[], bool],
        on_served: Callable[[], None],
    ) -> None:
        self._root, self._documents = root, documents
        self._tell, self._is_short, self._on_served = tell, is_short, on_served
        self._wake = asyncio.Event()
        self._failed, self._retry_sec = "", _RETRY_SEC[0]

    def look(self) -> None:
        """Something was installed, or the daemon begins: there may be a release that waits."""
        self._wake.set()

    async def work(self) -> None:
        """Do what there is to do, for ever. Cancelling it ends a running slice, which loses a document at most."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            told: str | None = None
            while (target := self._waiting()) is not None:
                if target != told:
                    told = target
                    self._tell("index_begun", release=target)
                await asyncio.sleep(await self._slice())

    async def _slice(self) -> float:
        """Embed for a while; returns for how long to do nothing then."""
        started, is_short = time.monotonic(), self._is_short()
        report = await self._documents.run({"root": str(self._root), "seconds": SLICE_SEC})
        if "error" in report:
            if report["message"] != self._failed:
                self._failed = report["message"]
                self._tell("index_failed", error=self._failed)
            self._retry_sec = min(2 * self._retry_sec, _RETRY_SEC[1])
            return self._retry_sec / 2
        self._failed, self._retry_sec = "", _RETRY_SEC[0]
        if "served" in report:
            self._tell("index_made", release=report["served"], documents=report["total"], notes=report["notes"])
            self._on_served()
            return 0.0
        self._tell("index_grows", **{name: report[name] for name in ("done", "total")})
        return time.monotonic() - started if is_short else 0.0

    def _waiting(self) -> str | None:
        try:
            return waiting(self._root)
        except EdgeError:
            return None
