"""Blobs on their way from a registry: kept under the cache until they have arrived, so that the next try goes on.

A file has the blob's digest as its name, and grows until it is whole; how far it came is its size, and what is in it
is hashed before anything is added. Once all of an archive is in its place, its blobs are removed: from then on its
files are found where they lie.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge.deploy.registry.client import Client
from edge.deploy.registry.layout import Blob
from edge.deploy.registry.trouble import Trouble
from edge.errors import RegistryError
from edge.files import cache

OLD_SEC = 7 * 24 * 3600.0
"""What nobody has come back for is removed after so long."""
_CHUNK = 2**20
_NAME = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """A folder of blobs, that several processes may use at the same time; see `opened`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path, self._lock = path, lock
        self._mine: set[str] = set()

    def fetch(self, client: Client, blob: Blob, on_progress: Callable[[int], None]) -> tuple[Path, int]:
        """Have a blob whole; returns its file and the bytes that came over the network for it.

        :raises RegistryError: the registry does not give it, or gives something else.
        :raises OSError: it cannot be written; what this pull has fetched is removed: the disk is as it was.
        """
        path = self.path / blob.sha256
        self._mine.add(blob.sha256)
        try:
            with path.open("a+b") as stream:
                fcntl.flock(
                    stream, fcntl.LOCK_EX
                )  # another process may be at the same one: then it is there after that
                fetching = _Fetch(client, blob, stream, on_progress)
                fetching.run()
        except OSError:
            self._remove(self._mine)
            raise
        return path, fetching.moved

    def kept_bytes(self, blob: Blob) -> int:
        """How much of a blob an earlier try has left."""
        try:
            return min((self.path / blob.sha256).stat().st_size, blob.size)
        except FileNotFoundError:
            return 0

    def clear(self) -> None:
        """Remove what this pull has fetched; but where others run too, which may be reading it, nothing is removed."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        self._remove(self._mine)
        for path in self.path.iterdir():
            if _NAME.fullmatch(path.name) and path.stat().st_mtime < time.time() - OLD_SEC:
                self._remove([path.name])

    def _remove(self, digests: Iterable[str]) -> None:
        for digest in digests:
            with contextlib.suppress(OSError):
                (self.path / digest).unlink()


@contextmanager
def opened(path: Path | None = None) -> Iterator[Blobs]:
    """The blobs of this user's cache.

    :raises RegistryError: the cache cannot be written.
    """
    path = path or cache() / "registry"
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise RegistryError(f"{path}: cannot be written: {error.strerror}. EDGE_CACHE names another folder") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield Blobs(path, lock)
    finally:
        os.close(lock)


class _Fetch:
    """One blob, from where it stands to its end."""

    def __init__(self, client: Client, blob: Blob, stream: BinaryIO, on_progress: Callable[[int], None]) -> None:
        self._client, self._blob, self._stream, self._on_progress = client, blob, stream, on_progress
        self._seen, self._have = hashlib.sha256(), 0
        self.moved = 0

    def run(self) -> None:
        self._take_stock()
        was_begun = self._have > 0
        self._complete()
        if self._seen.hexdigest() != self._blob.sha256 and was_begun:  # what was left of an earlier try may be at fault
            self._start_over()
            self._complete()
        self._stream.flush()
        if self._seen.hexdigest() != self._blob.sha256:
            self._start_over()
            raise RegistryError(
                f"{self._client.reference}: {self._blob.title} has another digest than its manifest says: damaged in "
                "the registry or on the way, or changed by somebody. Nothing of it was kept. Push it again"
            )

    def _take_stock(self) -> None:
        self._stream.seek(0)
        while data := self._stream.read(_CHUNK):
            self._seen.update(data)
            self._have += len(data)
        if self._have > self._blob.size:
            self._start_over()

    def _start_over(self) -> None:
        self._stream.truncate(0)
        self._seen, self._have = hashlib.sha256(), 0

    def _complete(self) -> None:
        failures = 0
        while self._have < self._blob.size:
            before = self._have
            try:
                self._transfer()
            except Trouble as trouble:
                failures = 1 if self._have > before else failures + 1
                self._client.wait(trouble, failures)

    def _transfer(self) -> None:
        blob = self._blob
        with self._client.blob(blob.sha256, blob.size, self._have, blob.title) as (start, pieces):
            if start != self._have:
                self._start_over()
            for data in pieces:
                if self._have + len(data) > blob.size:
                    self._start_over()
                    raise RegistryError(f"{self._client.reference}: {blob.title} is longer than its manifest says")
                self._stream.write(data)
                self._seen.update(data)
                self._have += len(data)
                self.moved += len(data)
                self._on_progress(len(data))
        if self._have < blob.size:
            raise Trouble(f"{blob.title} was cut short after {self._have:,} of {blob.size:,} bytes")
