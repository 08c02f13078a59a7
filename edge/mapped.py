"""Files that this process maps and reads over and over: advice to the kernel that keeps them in memory.

Used by the engine's process for its weights, when they are loaded and before each request. Values of the advice are
those of linux/mman.h; see madvise(2). Where the system has no such calls, nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from edge.machine import status_bytes

_MADV_RANDOM, _MADV_WILLNEED = 1, 3
_LOST_SHARE = 0.5


class MappedFiles:
    """The mappings that this process has of a folder's files.

    :param folder: of the files; make it when they have been loaded.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = [path.resolve() for path in folder.iterdir() if path.is_file()]  # as /proc names them
        names = {str(path) for path in self._paths}
        self._ranges: list[tuple[int, int]] = []  # address and length
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split(maxsplit=5)
            if len(words) > 5 and words[5] in names:
                start, end = (int(part, 16) for part in words[0].split("-"))
                self._ranges.append((start, end - start))
        self._resident = 0

    def settle(self) -> None:
        """The files were read once from end to end; from now on only pages in use are to be kept.

        What was read on the way and is mapped no more leaves the page cache, and a page that is missed is read alone.
        Otherwise a model that just fits its limit has pages read ahead that push out those in use: measured with 164
        MiB that every token needs and 71 MiB besides, 8 to 17 reads from disk for each token in any limit below 285
        MiB; with this, none down to 236 MiB.
        """
        self._advise(_MADV_RANDOM)
        if hasattr(os, "posix_fadvise"):
            for path in self._paths:
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(handle)
        self._resident = status_bytes("RssFile")

    def revive(self) -> None:
        """Read back in large pieces what the kernel took while nothing was asked, if that was much: see `settle`."""
        resident = status_bytes("RssFile")
        if resident < _LOST_SHARE * self._resident:
            self._advise(_MADV_WILLNEED)
        self._resident = max(self._resident, resident)

    def _advise(self, advice: int) -> None:
        madvise: Any = getattr(ctypes.CDLL(None), "madvise", None)
        for start, length in self._ranges if madvise is not None else ():
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)
