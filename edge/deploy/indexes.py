"""The indexes of a box as installations see them: which one is served, which one a release lacks, which are unused."""

from __future__ import annotations

from pathlib import Path

from edge import bundle as bundles
from edge.deploy.disk import Disk, remove
from edge.deploy.links import CURRENT, NEXT, PREVIOUS, served, target_of
from edge.errors import EdgeError
from edge.store.place import SIDES, index_of, indexes


def served_index(root: Path) -> Path | None:
    """The index that the box answers from; None where it serves no bundle, or has nothing ingested.

    :raises BundleError: the bundle that it serves cannot be read.
    """
    target = served(root)
    if target is None:
        return None
    path = index_of(root, _fingerprint(root, target))
    return path if path.is_file() else None


def is_ready(root: Path, fingerprint: str, *, stale: bool = False) -> bool:
    """Whether the box can go over to an embedder at once: there is an index of it that holds what is served now.

    :param stale: one that holds other documents will do.
    :raises EdgeError: an index cannot be read.
    """
    from edge.store.chunks import Store

    source = served_index(root)
    if source is None:
        return True
    with Store.open(source) as old:
        if old.identity.embedder == fingerprint:
            return True
        own = index_of(root, fingerprint)
        if own == source or not own.is_file():
            return False
        with Store.open(own) as new:
            return new.identity.embedder == fingerprint and (stale or new.known() == old.known())


def must_wait(root: Path, fingerprint: str) -> bool:
    """Whether the box's documents have to be embedded anew first. Not where it serves nothing, or what it serves cannot
    be read: nothing would be gained by waiting."""
    try:
        return served(root) is not None and not is_ready(root, fingerprint)
    except EdgeError:
        return False


def clear_indexes(root: Path, disk: Disk) -> list[str]:
    """Remove indexes of embedders that neither the current release has, nor the previous one, nor one that waits.

    To be called with the box locked; returns their names. What they held is in the current one's index too.
    """
    targets = {target_of(root, link) for link in (CURRENT, PREVIOUS, NEXT)} | {served(root)}
    try:
        used = {index_of(root, _fingerprint(root, target)) for target in targets if target is not None}
    except EdgeError:  # one of them is damaged: nobody knows which index it needs
        return []
    unused = [path for path in indexes(root) if path not in used] if used else []
    for path in unused:
        for side in SIDES:
            remove(disk, path.with_name(path.name + side))
    return [path.name for path in unused]


def _fingerprint(root: Path, target: str) -> str:
    return bundles.load(root / target).manifest.embedder.fingerprint
