"""A memory cgroup of one's own, to hold a command to a hard limit. Needs root, or a cgroup that was delegated."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge.machine import CGROUP_ROOT, own_cgroups
from edge.memory import oom_kills

_JOIN = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"


class NoCgroup(Exception):
    """None can be made here; the text says why."""


class MemoryCgroup:
    """A new memory cgroup with a hard limit in bytes and no swap; removed at the end of the `with` block.

    :raises NoCgroup: on entering, where none can be made.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes

    def __enter__(self) -> Self:
        self.path, self._limit_file = _make()
        try:
            self.set_limit(self._limit)
        except OSError as error:
            self._remove()
            raise NoCgroup(f"{self.path}: the limit cannot be set: {error.strerror}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def set_limit(self, limit_bytes: int) -> None:
        """Change the limit while processes run; lowering makes the kernel reclaim what is above it.

        :raises OSError: it cannot reclaim enough.
        """
        (self.path / self._limit_file).write_text(str(limit_bytes))
        if self._limit_file == "memory.max" and (self.path / "memory.swap.max").exists():
            (self.path / "memory.swap.max").write_text("0")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that joins the cgroup and then becomes `arguments`; its first is a path."""
        return [sys.executable, "-c", _JOIN, str(self.path / "cgroup.procs"), *arguments]

    def run(self, arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        return subprocess.run(self.command(arguments), capture_output=True, text=True, check=False, **options)

    @property
    def oom_kills(self) -> int:
        return oom_kills(self.path)

    @property
    def used_bytes(self) -> int:
        """What is charged to it now, page cache included."""
        names = ("memory.current", "memory.usage_in_bytes")
        return int(next(self.path / name for name in names if (self.path / name).exists()).read_text())

    def _remove(self) -> None:
        for _ in range(50):  # processes that were just killed leave it a moment later
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def evict(folder: Path) -> None:
    """Drop a folder's files from the page cache, so that whoever reads them next is charged for them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _make() -> tuple[Path, str]:
    """The folder of a new cgroup and the name of its limit's file."""
    reasons = []
    for parent, file in _parents():
        path = parent / f"edge-limit-{os.getpid()}-{time.monotonic_ns()}"
        try:
            path.mkdir()
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        if (path / file).exists():
            return path, file
        path.rmdir()
        reasons.append(f"{parent}: its children have no {file}")
    raise NoCgroup("; ".join(reasons) or "no memory controller is mounted")


def _parents() -> list[tuple[Path, str]]:
    """Where one might be made, nearest first: below this process's own, and further up."""
    found = []
    for controllers, name in own_cgroups():
        if controllers and "memory" not in controllers.split(","):
            continue
        base = CGROUP_ROOT / "memory" if controllers else CGROUP_ROOT
        folder = base / name.lstrip("/")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        levels = (folder, *folder.parents)
        found += [(level, file) for level in levels if level.is_dir() and level.is_relative_to(base)]
    return found
