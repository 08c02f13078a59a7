"""A release with another embedder: its index is made beside the one that is served, and both are switched in one step.

    step = advance(root, config, seconds=20)    # as often as it takes; a kill loses the document it was at
    if step.is_whole: finish(root, config)

The release that waits is what the link `next` points to. Its index takes the texts from the index that is served, one
transaction for each document; what is in it already, with the same hash, is not embedded again. Which index is used
follows from the bundle (`edge.store.place`), so switching `current` switches both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.config import EdgeConfig
from edge.deploy.disk import Disk
from edge.deploy.indexes import clear_indexes, served_index
from edge.deploy.links import RELEASES, flip, refused, release_of, served, waiting
from edge.deploy.releases import locked, prune, seed, verify_release
from edge.deploy.table import INDEX
from edge.errors import EdgeError, StoreMismatch
from edge.store.place import SIDES, beside

if TYPE_CHECKING:
    from edge.box import Box
    from edge.store.chunks import Store
    from edge.types import Document

OnStep = Callable[["Step"], None]


@dataclass(frozen=True, slots=True)
class Step:
    """How far the index of a release is that waits."""

    target: str | None  # what the link `next` points to; None: no release waits
    done: int = 0  # documents
    total: int = 0

    @property
    def is_whole(self) -> bool:
        return self.target is not None and self.done == self.total


def look(root: Path) -> Step:
    """How far it is, without doing anything.

    :raises EdgeError: an index cannot be read.
    """
    from edge.store.chunks import Store

    target = waiting(root)
    source = served_index(root) if target is not None else None
    if target is None or source is None:
        return Step(target)
    own = _own(root, target)
    with ExitStack() as opened:
        theirs = opened.enter_context(Store.open(source)).known()
        mine = opened.enter_context(Store.open(own)).known() if own.is_file() else {}
    return Step(target, sum(mine.get(name) == one for name, one in theirs.items()), len(theirs))


def advance(root: Path, config: EdgeConfig, *, seconds: float | None = None, on_step: OnStep | None = None) -> Step:
    """Embed documents for the release that waits, until all are, or for so long; one at least.

    :raises EdgeError: an index, the bundle or a document cannot be used; what was done is kept.
    """
    from edge.box import Box
    from edge.ingest.index import Indexer, IngestReport
    from edge.store.chunks import Store

    target, source = waiting(root), served_index(root)
    if target is None or source is None:
        return Step(target)
    until = None if seconds is None else time.monotonic() + seconds
    with Box(root / target, _own(root, target), config) as box, Store.open(source) as old, ExitStack() as opened:
        new = _opened(box)
        theirs, mine = old.known(), new.known()
        new.remove(mine.keys() - theirs.keys())
        missing = [name for name, one in theirs.items() if mine.get(name) != one]
        ready = _packed(root, target, new, opened)
        step = Step(target, len(theirs) - len(missing), len(theirs))
        for name in missing:
            if on_step is not None:
                on_step(step)
            document = old.document(name)
            if document is not None and not (ready is not None and _taken(new, ready, document, theirs[name].settings)):
                indexer = Indexer(new, box.embedder, config.ingest.chunk, IngestReport())
                summary = bool(json.loads(theirs[name].settings).get("summaries"))
                indexer.put(document, theirs[name].settings, summary=summary)
            step = Step(target, step.done + 1, step.total)
            if until is not None and time.monotonic() > until:
                break
        return step


def finish(root: Path, *, disk: Disk | None = None) -> tuple[str, list[str]] | None:
    """Serve the release that waits, with its index; what was served becomes the previous one.

    None where it may not be yet: none waits, or documents have changed meanwhile. Else its target, and notes.

    :raises DeployError: it is refused; the box serves what it served.
    """
    from edge.store.chunks import Store

    disk, root = disk or Disk(), root.resolve()
    with refused(root), locked(root, disk):
        target, source = waiting(root), served_index(root)
        if target is None:
            return None
        verify_release(root, target)
        with ExitStack() as opened:
            if source is not None:
                old = opened.enter_context(Store.open(source))
                opened.enter_context(old.transaction())  # nobody changes a document between the look and the switch
                own = _own(root, target)
                if not own.is_file() or opened.enter_context(Store.open(own)).known() != old.known():
                    return None
            flip(root, disk, target, served(root))
        notes = seed(root, disk, release_of(target) or "")
        notes += [f"removed {name}" for name in (*prune(root, disk), *clear_indexes(root, disk))]
    return target, notes


def _own(root: Path, target: str) -> Path:
    """Where the index of a release is or will be."""
    from edge import bundle as bundles
    from edge.store.chunks import Store

    fingerprint = bundles.load(root / target).manifest.embedder.fingerprint
    own, first = beside(root, fingerprint), root / INDEX
    if own.exists() or not first.is_file():
        return own
    with Store.open(first) as store:
        return first if store.identity.embedder == fingerprint else own


def _opened(box: Box) -> Store:
    """The index that is being made; one that was begun under another configuration is begun anew."""
    try:
        return box.open_store(create=True)
    except StoreMismatch:
        for side in SIDES:
            box.index_path.with_name(box.index_path.name + side).unlink(missing_ok=True)
        return box.open_store(create=True)


def _packed(root: Path, target: str, new: Store, opened: ExitStack) -> Store | None:
    """The index that came with the release, where it was made as the new one is."""
    from edge.store.chunks import Store

    path = root / RELEASES / (release_of(target) or "") / INDEX
    if not path.is_file():
        return None
    try:
        store = opened.enter_context(Store.open(path, frozen=True))
        return store if store.identity == new.identity else None
    except EdgeError:
        return None


def _taken(new: Store, ready: Store, document: Document, settings: str) -> bool:
    """Take a document's chunks and vectors from an index that has the very same document."""
    from edge.store.contents import content, put, vectors

    found = content(ready, document.source)
    if found is None or found.settings != settings or ready.document(document.source) != document:
        return False
    put(new, found, vectors(ready, document.source))
    return True
