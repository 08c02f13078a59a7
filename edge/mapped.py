"""Files that this process maps and reads over and over: advice to the kernel that keeps them in memory.

Used by the engine's process for its weights, when they are loaded and before each request. Values of the advice are
those of linux/mman.h; see madvise(2). Where the system has no such calls, nothing happens.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.machine import status_bytes

_MADV_RANDOM, _MADV_WILLNEED, _MADV_DONTNEED, _MADV_POPULATE_READ = 1, 3, 4, 22
_LOST_SHARE = 0.5
_LOST_SHARE_TIGHT = 0.95  # then pages are missed one by one, at a sixth of what the disk gives
_USED_SHARE = 0.5  # less is a table of which each prompt needs some rows

Ranges = Mapping[str, Sequence[tuple[int, int]]]
"""File name -> (start, end) in bytes of the parts of it that are in use."""

USED = "used.json"
"""Where a folder keeps its `Ranges`, if they are known."""


def read_used(folder: Path) -> Ranges:
    """What is in use of a folder's files, as `USED` says; nothing where it does not."""
    try:
        content = json.loads((folder / USED).read_text(encoding="utf-8"))
        return {str(name): [(int(start), int(end)) for start, end in ranges] for name, ranges in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True, slots=True)
class _Mapped:
    address: int
    length: int
    offset: int  # in the file
    path: Path

    def inside(self, start: int, end: int) -> tuple[int, int] | None:
        """Address and length of what this maps of a range of the file."""
        first, last = max(start, self.offset), min(end, self.offset + self.length)
        return (self.address + first - self.offset, last - first) if first < last else None


class MappedFiles:
    """The mappings that this process has of a folder's files.

    :param folder: of the files; make it when they have been loaded.
    :param used: what every request reads of them, if that is known; see `used`.
    """

    def __init__(self, folder: Path, used: Ranges | None = None) -> None:
        self._paths = [path.resolve() for path in folder.iterdir() if path.is_file()]  # as /proc names them
        known = {str(path): path for path in self._paths}
        self._used = used or {}
        self._mapped: list[_Mapped] = []
        for words in _maps():
            if words[5] in known:
                start, end = (int(part, 16) for part in words[0].split("-"))
                self._mapped.append(_Mapped(start, end - start, int(words[2], 16), known[words[5]]))
        self._resident = 0
        self._is_tight = False

    def settle(self, *, tight: bool) -> None:
        """The files have been loaded. What is used is mapped at once, what only loading read is let go.

        :param tight: memory holds little more than what is used. Then also the page cache lets go of the rest, and a
            page that is missed is read alone. Otherwise pages that are read ahead push out those in use: measured with
            164 MiB that every token needs and 71 MiB besides, 8 to 17 reads from disk for each token in any limit
            below 285 MiB; with this, none down to 236 MiB. Where there is room it would only read pages one by one
            from the disk that are in memory already: 3 s at each start.
        """
        self._is_tight = tight
        if self._used:
            self._advise(_MADV_DONTNEED)
        if tight:
            self._advise(_MADV_RANDOM)
            self._shrink_cache()
        self._populate()
        self._resident = status_bytes("RssFile")

    def revive(self) -> None:
        """Read back in large pieces what the kernel took while nothing was asked, if that was much: see `settle`.

        Where memory is tight a search in another process takes most of it each time. In 256 MiB: 4.1 s a page at a
        time, 0.2 s in large pieces.
        """
        resident = status_bytes("RssFile")
        if resident < (_LOST_SHARE_TIGHT if self._is_tight else _LOST_SHARE) * self._resident:
            if self._used:
                if self._is_tight:
                    self._read_ahead()
                self._populate()
            else:
                self._advise(_MADV_WILLNEED)
        self._resident = max(self._resident, resident)

    def forget(self) -> None:
        """From now on only pages that are read again count as `used`.

        :raises OSError: the kernel does not keep track of it.
        """
        Path("/proc/self/clear_refs").write_text("1", encoding="ascii")

    def used(self) -> dict[str, list[tuple[int, int]]]:
        """What has been read of the files since `forget`: the mappings (of one tensor each) that were read mostly."""
        referenced = _referenced_bytes()
        found: dict[str, list[tuple[int, int]]] = {}
        for one in sorted(self._mapped, key=lambda mapped: (mapped.path, mapped.offset)):
            if referenced.get(one.address, 0) > _USED_SHARE * one.length:
                found.setdefault(one.path.name, []).append((one.offset, one.offset + one.length))
        return found

    def _shrink_cache(self) -> None:
        """Let the page cache go of what is not used, and have it read what is, before it is mapped."""
        for handle, _ in self._handles():
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        self._read_ahead()

    def _read_ahead(self) -> None:
        """In large pieces, whatever advice the mappings have: they are told to read pages alone."""
        for handle, path in self._handles():
            for start, end in self._used.get(path.name, ()):
                os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_WILLNEED)

    def _handles(self) -> Iterator[tuple[int, Path]]:
        if not hasattr(os, "posix_fadvise"):
            return
        for path in self._paths:
            handle = os.open(path, os.O_RDONLY)
            try:
                yield handle, path
            finally:
                os.close(handle)

    def _populate(self) -> None:
        for one in self._mapped:
            for start, end in self._used.get(one.path.name, ()):
                if part := one.inside(start, end):
                    _madvise(*part, _MADV_POPULATE_READ)  # an older kernel refuses, and maps page by page later

    def _advise(self, advice: int) -> None:
        for one in self._mapped:
            _madvise(one.address, one.length, advice)


def mapped_files() -> list[str]:
    """The files that this process maps now; none where the system does not say."""
    try:
        return sorted({words[5] for words in _maps() if words[5].startswith("/")})
    except OSError:
        return []


def let_go(paths: Iterable[str]) -> None:
    """Have the page cache drop files, but for pages that a process maps; what cannot be opened is left."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _maps() -> Iterator[list[str]]:
    """The mappings of this process that have a file or a name, in the six fields of /proc/PID/maps in proc(5)."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split(maxsplit=5)
        if len(words) > 5:
            yield words


def _madvise(address: int, length: int, advice: int) -> None:
    madvise: Any = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), advice)


def _referenced_bytes() -> dict[int, int]:
    """Address of each mapping of this process -> bytes of its pages that were read; see /proc/PID/smaps in proc(5)."""
    found, address = {}, 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        first, *others = line.split(maxsplit=2)
        if first == "Referenced:":
            found[address] = int(others[0]) * 1024
        elif not first.endswith(":"):
            address = int(first.partition("-")[0], 16)
    return found
