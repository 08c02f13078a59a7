"""The links of a box, `current`, `previous` and `next`, and how they are switched.

A link is switched by making the new one under another name and renaming it: there is always one, the old or the new.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.deploy.disk import Disk, remove
from edge.deploy.table import BUNDLE
from edge.errors import DeployError, EdgeError

RELEASES, CURRENT, PREVIOUS = "releases", "current", "previous"
NEXT = "next"
"""A release that is to be served once its index is made: see `edge.deploy.reindex`."""
_TARGET = re.compile(rf"{RELEASES}/([0-9a-f]{{64}}(?:\.[0-9]+)?)/{BUNDLE}")
_ADVICE = {
    errno.ENOSPC: "the disk is full: free some room (`edge releases --prune`)",
    errno.EDQUOT: "the disk quota is used up: free some room (`edge releases --prune`)",
    errno.EROFS: "the disk is read-only: mount it writable, or look for errors of the disk in the system's log",
    errno.EIO: "the disk fails: look for its errors in the system's log, and replace it",
    errno.EACCES: "not allowed: run this as the user whom the folder belongs to",
    errno.EPERM: "not allowed: run this as the user whom the folder belongs to",
}


def target_of(root: Path, link: str) -> str | None:
    """Where a link of the box points to, relative to it; None where there is none.

    :raises DeployError: something else has its name.
    """
    try:
        return str((root / link).readlink())
    except FileNotFoundError:
        return None
    except OSError:
        raise DeployError(f"{root / link}: not a link, though an installation needs that name: move it away") from None


def release_of(target: str | None) -> str | None:
    """The release that a link's target lies in."""
    match = _TARGET.fullmatch(target or "")
    return match[1] if match else None


def served(root: Path) -> str | None:
    """The bundle that the box serves, relative to it: what `current` points to, else the folder `bundle`."""
    target = target_of(root, CURRENT)
    if target is None and (root / "bundle").is_dir():
        return "bundle"
    return target


def waiting(root: Path) -> str | None:
    """The release that waits for its index, as a link's target."""
    target = target_of(root, NEXT)
    return None if target == target_of(root, CURRENT) else target


@contextmanager
def refused(root: Path) -> Iterator[None]:
    """Every error of the block as a DeployError that says what to do, and what the box serves after it."""
    try:
        yield
    except OSError as error:
        said = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise DeployError(f"{error.filename or root}: {said}. {serving(root)}") from error
    except EdgeError as error:
        kind = type(error) if isinstance(error, DeployError) else DeployError
        raise kind(f"{error}. {serving(root)}") from error


def serving(root: Path) -> str:
    """What the box serves, in a sentence."""
    try:
        found = served(root)
    except DeployError:
        return "Nothing was changed"
    if found is None:
        return "The box serves no bundle yet"
    name = release_of(found)
    return f"The box serves release {name[:12]}" if name else f"The box serves {root / found}"


def flip(root: Path, disk: Disk, current: str, previous: str | None) -> None:
    """Point both links elsewhere, durably. On an error they are put back before it is raised.

    `previous` comes first: cut off between the two, the box serves what it served, and `previous` points to that too,
    so nothing that somebody may want back is lost from the disk. A release that waits is given up before, so that it
    cannot follow what was asked for later; where it is the one, its link goes last.
    """
    waits = target_of(root, NEXT)
    steps = [(PREVIOUS, previous), (CURRENT, current)]
    if waits is not None:
        steps.insert(len(steps) if waits == current else 0, (NEXT, None))
    _switch(root, disk, steps)


def wait_with(root: Path, disk: Disk, target: str) -> None:
    """Have a release wait to be served, durably; what is served stays. On an error nothing has changed."""
    _switch(root, disk, [(NEXT, target)])


def _switch(root: Path, disk: Disk, steps: list[tuple[str, str | None]]) -> None:
    before = {link: target_of(root, link) for link, _ in steps}
    try:
        for link, target in steps:
            point(root, disk, link, target)
            disk.sync(root)
    except BaseException:
        for link, target in before.items():
            with contextlib.suppress(OSError):  # a disk that fails for good: what is seen is a whole release anyway
                point(root, disk, link, target)
                disk.sync(root)
        raise


def point(root: Path, disk: Disk, link: str, target: str | None) -> None:
    """Switch one link, or remove it; `Disk.sync` of the box makes it durable."""
    path, scratch = root / link, root / f".{link}.new"
    remove(disk, scratch)
    if target is None:
        remove(disk, path)
    elif target_of(root, link) != target:
        disk.symlink(scratch, target)
        disk.rename(scratch, path)
