"""An archive's content as a folder, for people and tools; a box uses `edge.deploy.install`."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from edge.deploy.archive import Archive
from edge.deploy.disk import Disk, sync_tree
from edge.deploy.install import unpack
from edge.deploy.table import Table
from edge.errors import ArchiveError, UsageError


def unpack_to(path: Path, out: Path) -> Table:
    """Unpack an archive into a new folder, which appears by rename once every byte of it has been checked.

    :raises UsageError: the folder is there already.
    :raises ArchiveError: the archive is damaged, or the folder cannot be written.
    """
    check_new(out)
    with Archive.open(path) as archive:
        write_folder(archive, out)
        return archive.table


def check_new(out: Path) -> None:
    """:raises UsageError: there is something of that name."""
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already: name a new folder")


def write_folder(archive: Archive, out: Path) -> None:
    """Write an archive's content as a folder, by rename.

    :raises ArchiveError: the archive is damaged, or the folder cannot be written.
    """
    partial, disk = out.with_name(f".{out.name}.{os.getpid()}.partial"), Disk()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < archive.table.bytes:
            raise OSError(errno.ENOSPC, "the disk has too little room", str(out))
        unpack(archive, partial, disk)
        sync_tree(disk, partial)
        disk.rename(partial, out)
        disk.sync(out.parent)
    except OSError as error:
        raise ArchiveError(f"{error.filename or out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
