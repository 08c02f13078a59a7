"""The releases of a box: where they lie, which one is served, and switching between them.

    ROOT/releases/<digest>/       an archive's content; never written to again
    ROOT/current                  link to the bundle that is served: releases/<digest>/bundle
    ROOT/previous                 link to the one before, in the same way
    ROOT/next                     link to one that waits for its index, where there is such a one
    ROOT/deploy.json              the highest release number and signed time seen, and the order of installations
    ROOT/deploy.lock              held by whoever installs, rolls back or clears up

See `edge.deploy.links` for how the links are switched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge import bundle as bundles
from edge.config import parse, to_plain
from edge.deploy import table as tables
from edge.deploy.archive import read_pieces
from edge.deploy.disk import Disk, make_folders, remove, replace_file
from edge.deploy.indexes import is_ready
from edge.deploy.links import CURRENT, NEXT, PREVIOUS, RELEASES, flip, refused, release_of, served, target_of, wait_with
from edge.deploy.signatures import Signatures, seconds_of
from edge.deploy.table import BUNDLE, CONFIG, INDEX, SIGNATURES, TABLE, Table
from edge.errors import ConfigError, DeployError, EdgeError
from edge.files import sha256_file
from edge.store.place import indexes

STATE, LOCK = "deploy.json", "deploy.lock"
PARTIAL = ".partial"
KEEP = 2
"""Releases that stay beside the current and the previous one."""
_SCHEMA = 1
_NAME = re.compile(r"[0-9a-f]{64}(\.[0-9]+)?")


@dataclass(frozen=True)
class State:
    """What a box remembers of what was installed."""

    schema: int = _SCHEMA
    release: int = -1  # the highest signed release number
    archive: str = ""  # the digest of the archive that had it
    seen: str = "1970-01-01T00:00:00Z"  # the latest signed time
    installed: tuple[str, ...] = ()  # names below releases/, the newest last

    def __post_init__(self) -> None:
        if self.schema != _SCHEMA:
            raise ValueError(f"schema {self.schema} is not known here, only {_SCHEMA}: install a newer edge-slm")
        seconds_of(self.seen)


@dataclass(frozen=True, slots=True)
class Release:
    """One folder below releases/."""

    name: str
    bundle: str  # "name version"; "" where its table cannot be read
    release: int | None  # the highest number that it is signed with
    bytes: int
    is_current: bool
    is_previous: bool
    is_next: bool = False  # it waits for its index


@contextmanager
def locked(root: Path, disk: Disk) -> Iterator[None]:
    """Hold the box for one installation, and clear away what an interrupted one left.

    A box that nothing was ever installed on is left as it was found where this fails.

    :raises DeployError: another one runs.
    :raises OSError: the box cannot be written.
    """
    new = [path for path in (root / RELEASES, root) if not path.exists()]
    is_first = not (root / LOCK).exists()
    make_folders(disk, root)
    handle = _hold(root)
    try:
        _clear_leftovers(root, disk)
        yield
    except BaseException:
        if is_first and not (root / STATE).exists():
            for path in (root / LOCK, *new):
                with contextlib.suppress(OSError):  # what cannot be removed, or holds something, does no harm
                    path.rmdir() if path in new else path.unlink()
        raise
    finally:
        os.close(handle)


def _hold(root: Path) -> int:
    """The lock file, locked: the one that is there, not one that its last holder has removed."""
    while True:
        handle = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.lstat(root / LOCK)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise DeployError(f"{root}: another installation or rollback runs: wait until it has ended") from None
        except FileNotFoundError:
            pass
        os.close(handle)


def read_state(root: Path) -> State:
    """What the box remembers; the default where nothing was installed yet.

    :raises DeployError: it is damaged.
    """
    path = root / STATE
    try:
        return parse(State, path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return State()
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise DeployError(
            f"{path}: cannot be used: {error}. Bring back a copy; or remove it, and the box no longer knows which "
            "release numbers are too old"
        ) from None


def write_state(root: Path, disk: Disk, state: State) -> None:
    """Replace the state, durably."""
    replace_file(disk, root / STATE, [(json.dumps(to_plain(state), indent=1) + "\n").encode()])


def rollback(root: Path, *, to: str | None = None, disk: Disk | None = None) -> str:
    """Serve the previous release again, or one named by the first digits of its name; returns its target.

    What is served now becomes the previous one. Its every byte is checked before. One whose embedder has no index here
    waits for it (`edge.deploy.reindex`), and what is served goes on meanwhile.

    :raises DeployError: there is none, or it is damaged.
    """
    disk, root = disk or Disk(), root.resolve()
    with refused(root), locked(root, disk):
        now = served(root)
        target = target_of(root, PREVIOUS) if to is None else f"{RELEASES}/{_named(root, to)}/{BUNDLE}"
        if target is None or target == now:
            raise DeployError(
                f"{root}: there is no previous release to go back to; `edge releases` lists what is there, and "
                "`edge rollback --to` takes any of it"
            )
        try:
            verify_release(root, target)
        except EdgeError as error:
            raise DeployError(f"the release to go back to cannot be used: {error}") from None
        if _may_serve(root, target):
            flip(root, disk, target, now)
        else:
            wait_with(root, disk, target)
    return target


def verify_release(root: Path, target: str) -> None:
    """Read every byte of a bundle that a link may point to, and for a release of all that came with it.

    :raises EdgeError: something is not as its table says.
    """
    bundle = bundles.verify(root / target)
    name = release_of(target)
    if name is None:
        return
    folder = root / RELEASES / name
    table, digest = _table(folder)
    if digest != name.partition(".")[0] or bundle.digest != table.bundle:
        raise DeployError(f"{folder}: not the release that its name says")
    for entry in table.files:
        path = folder / entry.path
        if not path.is_file() or path.is_symlink() or sha256_file(path) != entry.sha256:
            raise DeployError(f"{path}: damaged or missing")


def releases(root: Path) -> list[Release]:
    """What is installed, in the order of installation."""
    root = root.resolve()
    order = {name: position for position, name in enumerate(read_state(root).installed)}
    linked = {link: release_of(target_of(root, link)) for link in (CURRENT, PREVIOUS, NEXT)}
    return [
        _described(root / RELEASES / name, [link for link, other in linked.items() if other == name])
        for name in sorted(_names(root), key=lambda name: (order.get(name, -1), name))
    ]


def prune(root: Path, disk: Disk, keep: int = KEEP) -> list[str]:
    """Remove the oldest releases but for `keep`, the current one and the previous one; returns the removed names.

    To be called with the box locked. A process that has opened a release goes on with it until it ends or reloads.
    """
    linked = {release_of(target_of(root, link)) for link in (CURRENT, PREVIOUS, NEXT)}
    idle = [one.name for one in releases(root) if one.name not in linked]
    removed = idle[: max(0, len(idle) - keep)]
    for name in removed:
        retire(root, disk, name)
    state = read_state(root)
    left = tuple(name for name in state.installed if (root / RELEASES / name).is_dir())
    if left != state.installed:
        write_state(root, disk, dataclasses.replace(state, installed=left))
    return removed


def retire(root: Path, disk: Disk, name: str) -> None:
    """Remove a release, which no link may point to; cut off in the middle, what is left is no release any more."""
    scratch = root / RELEASES / f"{name}{PARTIAL}"
    disk.rename(root / RELEASES / name, scratch)
    disk.sync(root / RELEASES)
    remove(disk, scratch)
    disk.sync(root / RELEASES)


def seed(root: Path, disk: Disk, name: str) -> list[str]:
    """Give a box that has none the index and the configuration of a release. What it has is its own; says so."""
    notes: list[str] = []
    for part in (INDEX, CONFIG):
        source, target = root / RELEASES / name / part, root / part
        if not source.is_file():
            continue
        if target.exists() or (part == INDEX and indexes(root)):
            notes.append(f"{target} was left as it is; the archive's own is {source}")
            continue
        replace_file(disk, target, read_pieces(source))
    return notes


def _may_serve(root: Path, target: str) -> bool:
    """Whether there is an index for a bundle; one that is some documents behind will do, to go back quickly."""
    try:
        return is_ready(root, bundles.load(root / target).manifest.embedder.fingerprint, stale=True)
    except EdgeError:  # what is served now, or its index, is damaged: away from it
        return True


def _described(folder: Path, links: list[str]) -> Release:
    flags = (CURRENT in links, PREVIOUS in links, NEXT in links)
    try:
        table, _ = _table(folder)
        signatures = Signatures.from_bytes((folder / SIGNATURES).read_bytes(), str(folder))
    except (OSError, EdgeError):
        return Release(folder.name, "", None, 0, *flags)
    number = max((one.release for one in signatures.signatures), default=None)
    return Release(folder.name, f"{table.name} {table.version}", number, table.bytes, *flags)


def _table(folder: Path) -> tuple[Table, str]:
    try:
        data = (folder / TABLE).read_bytes()
    except OSError as error:
        raise DeployError(f"{folder / TABLE}: cannot be read: {error.strerror}") from None
    return tables.from_bytes(data, str(folder)), tables.digest_of(data)


def _named(root: Path, start: str) -> str:
    found = [name for name in _names(root) if name.startswith(start)]
    if len(found) != 1:
        raise DeployError(f"{len(found)} releases have names that begin with {start!r}: `edge releases` lists them")
    return found[0]


def _names(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in (root / RELEASES).iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def _clear_leftovers(root: Path, disk: Disk) -> None:
    for link in (CURRENT, PREVIOUS, NEXT):
        target_of(root, link)  # a folder of that name is refused before anything is done
        remove(disk, root / f".{link}.new")
    for name in (STATE, INDEX, CONFIG):
        remove(disk, root / f".{name}.new")
    if (root / RELEASES).is_dir():
        for path in sorted((root / RELEASES).glob(f"*{PARTIAL}")):
            remove(disk, path)
