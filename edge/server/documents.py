"""Documents that come over HTTP: kept on disk, and taken into the index by a process of its own.

A document is accepted once its file and its record are on the disk; from then on it is ingested, after a restart too.

    STATE/documents/NAMESPACE/NAME          the file
    STATE/records/NAMESPACE/NAME.json       what is known of it
    STATE/uploads/                          what is still coming in; emptied at start
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.errors import DocumentTooLarge, StoreFull, UnsupportedDocument, UsageError
from edge.files import sync_directory, write_atomic
from edge.ingest.formats import TYPES
from edge.server.backend import BoxSettings

Status = Literal["queued", "indexing", "ready", "failed", "deleting"]
_SIGNS = " _.,()+-'&"  # in a name, beside letters and digits of any language
_NAME_CHARS = 150
_NAME_BYTES = 240  # of UTF-8; a file system takes 255, and a record's name is longer by its ending
_BATCH = 32  # documents that one run of the indexer takes
_RETRY_SEC = 15.0
_AGAIN = ("StoreBusy", "StoreFull", "BudgetExceeded")
"""Errors that may pass: the documents stay in the queue."""


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """A document as clients see it; times are seconds since 1970."""

    name: str
    namespace: str
    bytes: int
    sha256: str
    added: float
    status: Status
    message: str = ""  # why it failed, or waits


class Documents:
    """The documents of all namespaces, and the queue of those that are not in the index yet.

    :param state: the daemon's folder.
    :ivar before: awaited before an ingest, `after` behind it: room in memory is made there, and given back.
    """

    def __init__(self, state: Path, settings: BoxSettings, max_bytes: int) -> None:
        self.root = state / "documents"
        self._records, self._uploads = state / "records", state / "uploads"
        self.settings, self._max_bytes = settings, max_bytes
        self._wake = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()  # job at a time
        self._is_stale = False  # the index is another one, which may not have all that is `ready`
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None
        shutil.rmtree(self._uploads, ignore_errors=True)
        for folder in (self.root, self._records, self._uploads):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    # -- what routes call ---------------------------------------------------------------------------------------

    def all_of(self, namespace: str) -> list[Record]:
        folder = self._records / namespace
        found = [self._read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
        return [record for record in found if record is not None]

    def get(self, namespace: str, name: str) -> Record | None:
        return self._read(self._record_path(namespace, checked_name(name)))

    async def put(self, namespace: str, name: str, pieces: AsyncIterator[bytes]) -> Record:
        """Keep a document, in place of the one of the same name; it is on the disk when this returns.

        :raises UsageError: the name is none, or the document is empty.
        :raises UnsupportedDocument: there is no reader for its kind.
        :raises DocumentTooLarge: it is more than `server.max_upload_bytes`.
        :raises StoreFull: the disk is.
        """
        name = checked_name(name)
        if Path(name).suffix.lower() not in TYPES:
            raise UnsupportedDocument(f"{name}: no reader for this kind of file; there are {', '.join(TYPES)}")
        try:
            return await self._keep(namespace, name, pieces)
        except OSError as error:
            raise StoreFull(f"{name} cannot be kept: {error.strerror or error}; free room on the disk") from error

    def delete(self, namespace: str, name: str) -> Record | None:
        """Have a document removed from index and disk; None where there is none."""
        record = self.get(namespace, name)
        if record is not None:
            record.status = "deleting"
            self._write(record)
            self._wake.set()
        return record

    @property
    def pending(self) -> int:
        """Documents that the index does not show as they are."""
        return len(self._pending())

    # -- the queue ----------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Take what is queued into the index, for ever. Cancelling it ends a running ingest, which loses nothing."""
        self._recover()
        while True:
            self._wake.clear()
            batch = self._pending()[:_BATCH]
            if self._is_stale:
                await self._compare()
            elif not batch:
                await self._wake.wait()
            elif not await self._take(batch):
                await asyncio.sleep(_RETRY_SEC)

    def recheck(self) -> None:
        """The index is another one: have it hold what the documents' files hold."""
        self._is_stale = True
        self._wake.set()

    async def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Have a process do a job (`edge.server.indexer`), once there is room for it; never two at a time.

        What went wrong is in the report: `error` and `message`.
        """
        async with self._one:
            if self.before is not None:
                await self.before()
            try:
                return await self._index(job)
            finally:
                if self.after is not None:
                    await self.after()

    async def _compare(self) -> None:
        report = await self.run({"add": [str(self.root)], "remove": [], "prune": True})
        self._is_stale = "error" in report
        if self._is_stale:
            await asyncio.sleep(_RETRY_SEC)

    async def _take(self, batch: list[Record]) -> bool:
        """Run the indexer on a batch; whether it went through."""
        removed = [record for record in batch if record.status == "deleting"]
        added = [record for record in batch if record.status != "deleting"]
        for record in removed:
            self.path(record).unlink(missing_ok=True)
        for record in added:
            record.status, record.message = "indexing", ""
            self._write(record)
        paths = {"add": [str(self.path(r)) for r in added], "remove": [str(self.path(r)) for r in removed]}
        report = await self.run(paths)
        if "error" in report:
            again = report["error"] in _AGAIN
            for record in batch:
                self._settle(record, record.status if again else "failed", report["message"])
            return not again
        failed = dict(report["failed"])
        for record in added:
            why = failed.get(str(self.path(record)))
            self._settle(record, "failed" if why else "ready", why or "")
        for record in removed:
            self._forget(record)
        return True

    async def _index(self, job: dict[str, Any]) -> dict[str, Any]:
        opened = {name: getattr(self.settings, name) for name in ("bundle", "index", "config")}
        job = {"parent": os.getpid(), **opened, **job}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge.server.indexer", json.dumps(job),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, said = await self._process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()
            raise
        try:
            report: dict[str, Any] = json.loads(out)
        except ValueError:
            last = said.decode(errors="replace").strip().splitlines()[-1:] or [f"code {self._process.returncode}"]
            return {"error": "ParserFailed", "message": f"the ingest ended: {last[0]}"}
        return report

    def _settle(self, record: Record, status: Status, message: str) -> None:
        """Say how it went, unless the document was replaced or removed meanwhile."""
        now = self.get(record.namespace, record.name)
        if now is not None and (now.sha256, now.added) == (record.sha256, record.added) and now.status != "deleting":
            now.status, now.message = status, message
            self._write(now)

    def _forget(self, record: Record) -> None:
        now = self.get(record.namespace, record.name)
        if now is not None and now.status == "deleting":
            self._record_path(record.namespace, record.name).unlink(missing_ok=True)

    def _recover(self) -> None:
        """After a crash: files without a record get one."""
        for path in self.root.glob("*/*"):
            namespace, name = path.parent.name, path.name
            if self._read(self._record_path(namespace, name)) is None:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                size = path.stat().st_size
                self._write(Record(name, namespace, size, digest, path.stat().st_mtime, "queued"))

    def _pending(self) -> list[Record]:
        """Oldest first."""
        found = [self._read(path) for path in self._records.glob("*/*.json")]
        return sorted(
            (r for r in found if r is not None and r.status in ("queued", "indexing", "deleting")),
            key=lambda record: record.added,
        )

    # -- files --------------------------------------------------------------------------------------------------

    def path(self, record: Record) -> Path:
        return self.root / record.namespace / record.name

    async def _keep(self, namespace: str, name: str, pieces: AsyncIterator[bytes]) -> Record:
        handle, partial = tempfile.mkstemp(dir=self._uploads)
        digest, size = hashlib.sha256(), 0
        try:
            with os.fdopen(handle, "wb") as stream:
                async for piece in pieces:
                    size += len(piece)
                    if size > self._max_bytes:
                        raise DocumentTooLarge(
                            f"{name} is larger than {self._max_bytes} bytes (server.max_upload_bytes)"
                        )
                    digest.update(piece)
                    stream.write(piece)
                if not size:
                    raise UsageError(f"{name} is empty")
                stream.flush()
                os.fsync(stream.fileno())
            folder = self.root / namespace
            folder.mkdir(exist_ok=True, mode=0o700)
            Path(partial).replace(folder / name)
            sync_directory(folder)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        record = Record(name, namespace, size, digest.hexdigest(), time.time(), "queued")
        self._write(record)
        self._wake.set()
        return record

    def _record_path(self, namespace: str, name: str) -> Path:
        return self._records / namespace / f"{name}.json"

    def _write(self, record: Record) -> None:
        write_atomic(self._record_path(record.namespace, record.name), msgspec.json.encode(record))

    def _read(self, path: Path) -> Record | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None


def checked_name(name: str) -> str:
    """A document's name in the one spelling that is kept (NFC): no path, nothing hidden.

    :raises UsageError: it is none.
    """
    name = unicodedata.normalize("NFC", name)
    is_plain = all(unicodedata.category(one)[0] in "LMN" or one in _SIGNS for one in name)
    fits = 0 < len(name) <= _NAME_CHARS and len(name.encode("utf-8", "replace")) <= _NAME_BYTES
    if not is_plain or not fits or not name[0].isalnum() or name.endswith((".", " ")):
        raise UsageError(
            f"{name[:80]!r} is no name for a document: up to {_NAME_CHARS} letters, digits, spaces and "
            "_ . , ( ) + - ' &, such as 'user manual.pdf'; no folders"
        )
    return name
