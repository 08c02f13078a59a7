"""Everything durable that an installation does to a box goes through here, one small operation at a time.

So a test can let each of them fail, and can replay what a power cut would leave of them: what was not synced is lost.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path


class Disk:
    """The real one. Each method raises OSError; none of them is durable before `sync`."""

    def mkdir(self, path: Path) -> None:
        path.mkdir(mode=0o755)

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """A new file; its bytes are durable after `sync(path)`, its name after `sync(path.parent)`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o644), "wb") as stream:
            for data in pieces:
                stream.write(data)

    def sync(self, path: Path) -> None:
        """Make a file's content, or a folder's names, survive a power cut."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Within one folder; replaces a file or link that is there, atomically."""
        source.replace(target)

    def symlink(self, path: Path, target: str) -> None:
        path.symlink_to(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def rmdir(self, path: Path) -> None:
        path.rmdir()


def make_folders(disk: Disk, path: Path) -> None:
    """Make a folder and those above it, durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        disk.mkdir(folder)
        disk.sync(folder.parent)


def replace_file(disk: Disk, path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file so that it is the old one or the new one, even after a power cut."""
    scratch = path.with_name(f".{path.name}.new")
    if scratch.exists():
        disk.unlink(scratch)
    try:
        disk.write(scratch, pieces)
        disk.sync(scratch)
        disk.rename(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(disk, scratch)
        raise
    disk.sync(path.parent)


def remove(disk: Disk, path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing there is fine. Follows no link."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        disk.unlink(path)
        return
    for child in sorted(path.iterdir()):
        remove(disk, child)
    disk.rmdir(path)


def sync_tree(disk: Disk, path: Path) -> None:
    """Sync every file and folder below a folder, and the folder itself."""
    for child in sorted(path.iterdir()):
        if child.is_dir() and not child.is_symlink():
            sync_tree(disk, child)
        else:
            disk.sync(child)
    disk.sync(path)
