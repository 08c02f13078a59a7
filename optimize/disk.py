"""Room on disk: asked for before a long step begins, and a clear error where it runs out in the middle of one."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import BuildError

_MIB = 2**20


def require(folder: Path, needed_bytes: int) -> None:
    """Check that the file system of `folder` (which need not exist yet) has `needed_bytes` free.

    :raises BuildError: it has not; says how much is there and how much is missing.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise BuildError(
            f"{existing}: {free // _MIB} MiB free, this step needs {-(-needed_bytes // _MIB)} MiB. "
            "Free some space, or point EDGE_CACHE (and --out) at a larger disk; what is built so far is kept."
        )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" inside the block into a BuildError.

    :raises BuildError: the disk filled up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BuildError(
            f"{folder}: the disk is full. Free some space, or point EDGE_CACHE (and --out) at a larger disk, "
            "and run the same command again: finished stages are kept, the unfinished one was removed."
        ) from error
