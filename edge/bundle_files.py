"""The files below a bundle's folder: regular files only, reached without following a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edge.errors import BundleError
from edge.files import sha256_file

AGAIN = "Copy the bundle again from where it came, or build it again with `edge optimize run`"


def is_plain(name: str) -> bool:
    """Whether a path stays below the folder it starts from and is written in one way only: "a/b", no "..", no "./"."""
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == name != "." and name.isprintable()


def size(folder: Path, name: str) -> int:
    """Bytes of a file below `folder`.

    :raises BundleError: it is missing, cannot be read, is no regular file, or a link leads to it.
    """
    current, status = folder, None
    for part in PurePosixPath(name).parts:
        current = current / part
        try:
            status = current.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(f"{folder / name}: missing. {AGAIN}") from None
        except OSError as error:
            raise BundleError(f"{folder / name}: cannot be read: {error.strerror}. {AGAIN}") from None
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{current}: a symbolic link, and a bundle has none. {AGAIN}")
    if status is None or not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{folder / name}: not a regular file. {AGAIN}")
    return status.st_size


def walk(folder: Path) -> Iterator[str]:
    """POSIX paths of all files below `folder`, sorted within each folder.

    :raises BundleError: there is a link, a special file, or a folder without files.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read: {error.strerror}") from None
    if not entries:
        raise BundleError(f"{folder}: an empty folder, and a bundle has none. Remove it")
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in walk(Path(entry.path)))
        elif entry.is_file(follow_symlinks=False):
            yield entry.name
        else:
            raise BundleError(f"{entry.path}: a link or a special file, and a bundle has none. Remove it")


def sha256(folder: Path, name: str) -> str:
    """Hex sha256 of a file below `folder`.

    :raises BundleError: it cannot be read.
    """
    try:
        return sha256_file(folder / name)
    except OSError as error:
        raise BundleError(f"{folder / name}: cannot be read: {error.strerror}. {AGAIN}") from None
