"""Install an archive on a box: all of it, or nothing.

    installed = install(Path("support.edge"), home(), Options())

Whatever can be known beforehand is checked before the first byte is written: table, signature, release number, CPU,
schema, room on the disk, memory. Then the release is staged beside the others, every byte of it checked, tried out in
a process of its own, synced, renamed, and only then served. What fails on the way leaves the box as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edge import bundle as bundles
from edge.bundle import MANIFEST, MODEL_CONFIG, FileEntry, Manifest
from edge.config import parse
from edge.deploy import trust as trusts
from edge.deploy.archive import Archive
from edge.deploy.diff import manifest_of
from edge.deploy.disk import Disk, make_folders, remove, sync_tree
from edge.deploy.host import Host, Smoke
from edge.deploy.indexes import clear_indexes, must_wait
from edge.deploy.links import (
    CURRENT,
    NEXT,
    PREVIOUS,
    RELEASES,
    flip,
    refused,
    release_of,
    served,
    target_of,
    wait_with,
)
from edge.deploy.probe import Probe
from edge.deploy.releases import (
    KEEP,
    PARTIAL,
    STATE,
    State,
    locked,
    prune,
    read_state,
    retire,
    seed,
    verify_release,
    write_state,
)
from edge.deploy.signatures import seconds_of
from edge.deploy.table import BUNDLE, PROBE, SIGNATURES, TABLE
from edge.deploy.trust import Verified
from edge.errors import ArchiveError, DeployError, EdgeError, TrustError
from edge.sizes import mib
from edge.store.place import index_of

MARGIN_BYTES = 16 * 2**20
"""Room that an installation leaves on the disk, at least."""


@dataclass(frozen=True)
class Options:
    trusted: Path | None = None  # trust file; None: trust.yaml of the box
    allow_unsigned: bool = False  # and untrusted, expired, revoked: whatever is whole
    allow_downgrade: bool = False
    keep: int = KEEP


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation did."""

    name: str  # of the release
    bundle: str  # its digest
    previous: str | None  # what the box served before, relative to its folder
    verified: Verified | None  # None: not trusted, and allowed to be
    smoke: Smoke | None  # None: the release had been there already
    removed: tuple[str, ...]  # releases and indexes that were cleared away
    notes: tuple[str, ...]
    waits: bool = False  # for its index, and is served once that is made: `edge.deploy.reindex`


def install(source: Path | Archive, root: Path, options: Options, *, host: Host, disk: Disk | None = None) -> Installed:
    """Install an archive, given by its path or open already, on the box `root` and serve it.

    :raises DeployError: it is refused or fails; says why, and what the box serves: what it served before.
    """
    disk, root = disk or Disk(), root.resolve()
    with refused(root), locked(root, disk), ExitStack() as opened:
        archive = opened.enter_context(Archive.open(source)) if isinstance(source, Path) else source
        return _Installation(archive, root, options, host, disk).run()


def precheck(archive: Archive, root: Path, options: Options, *, host: Host) -> None:
    """All that `install` checks before it writes, without holding the box: worth it before an archive is fetched.

    :raises DeployError: it would be refused.
    """
    root = root.resolve()
    with refused(root):
        _Installation(archive, root, options, host, Disk()).check(read_state(root))


class _Installation:
    def __init__(self, archive: Archive, root: Path, options: Options, host: Host, disk: Disk) -> None:
        self._archive, self._root, self._options, self._host, self._disk = archive, root, options, host, disk
        self._partial = root / RELEASES / f"{archive.digest}{PARTIAL}"
        self._new: str | None = None
        self._state_written = self._waits = False
        self._notes: list[str] = []

    def run(self) -> Installed:
        archive, root = self._archive, self._root
        state = read_state(root)
        verified, manifest = self.check(state)
        had_copy = self._host.has_prepared(archive.table.bundle)
        smoke, name = None, self._present()
        try:
            if name is None:
                smoke = self._stage()
                name = self._named()
            before = served(root)
            self._waits = must_wait(root, manifest.embedder.fingerprint)
            self._serve(name, _grown(state, name, archive.digest, verified), before)
        except BaseException:
            self._undo(state, had_copy)
            raise
        removed = self._settle(name, manifest)
        notes = tuple(self._notes)
        return Installed(name, archive.table.bundle, before, verified, smoke, removed, notes, self._waits)

    # -- before anything is written ----------------------------------------------------------------------------------

    def check(self, state: State) -> tuple[Verified | None, Manifest]:
        """Whether this box may and can take it."""
        if self._archive.table.is_delta:
            raise DeployError(f"{self._archive.path}: the delta of an index, not a bundle: `edge index apply` takes it")
        return self._trusted(state), self._fits()

    def _trusted(self, state: State) -> Verified | None:
        archive, options = self._archive, self._options
        try:
            trust = trusts.read_trust(options.trusted or self._root / trusts.TRUST)
            found = trusts.check(archive, trust, now=self._host.now(), seen=state.seen)
        except TrustError as error:
            if not options.allow_unsigned:
                raise
            self._notes.append(f"installed though nobody vouches for it: {error}")
            return None
        same = found.release == state.release and archive.digest == state.archive
        if found.release <= state.release and not same and not options.allow_downgrade:
            raise TrustError(
                f"{archive.path}: release {found.release}, and this box has had release {state.release}: an older one "
                "or another of the same number is refused. `edge rollback` goes back to what is installed; "
                f"--allow-downgrade takes this archive all the same"
            )
        return found

    def _fits(self) -> Manifest:
        """The manifest, once this machine is known to hold the bundle."""
        archive, table, host = self._archive, self._archive.table, self._host
        if table.architectures and host.machine not in table.architectures:
            raise DeployError(
                f"{archive.path}: built for {', '.join(table.architectures)}, and this machine is {host.machine}: take "
                f"the archive for it"
            )
        manifest = manifest_of(archive)
        with_fallback = {entry.name for entry in manifest.targets}  # beside the CPU's form, which is always there
        if manifest.target not in {*host.targets, *with_fallback}:
            raise DeployError(
                f"{archive.path}: built for the target {manifest.target!r}; this machine has {', '.join(host.targets)}"
            )
        below = f"{BUNDLE}/"
        listed = {entry.path.removeprefix(below): FileEntry(entry.sha256, entry.bytes) for entry in table.files
                  if entry.path.startswith(below)}  # fmt: skip
        for name in (MANIFEST, bundles.SIDECAR):
            listed.pop(name, None)
        if listed != manifest.files:
            wrong = sorted(name for name in listed.keys() | manifest.files.keys()
                           if listed.get(name) != manifest.files.get(name))  # fmt: skip
            raise ArchiveError(
                f"{archive.path}: the manifest and the table of contents do not agree about {wrong[0]}: it was not "
                f"packed by `edge bundle pack`"
            )
        self._has_room(manifest)
        config = f"{BUNDLE}/{manifest.model.path}/{MODEL_CONFIG}"
        host.admit(manifest, table.bundle, archive.read(config))
        return manifest

    def _has_room(self, manifest: Manifest) -> None:
        table = self._archive.table
        need = table.bytes + len(table.files) * 4096 + MARGIN_BYTES
        need += self._host.prepared_bytes(self._root, manifest, table.bundle)
        free = self._host.free_bytes(self._root)
        if free < need and self._present() is None:
            raise DeployError(
                f"{self._root}: {mib(free)} free, and {mib(need)} are needed: free some room (`edge releases --prune`)"
            )

    def _present(self) -> str | None:
        """The release, where it is installed already and whole."""
        for path in sorted((self._root / RELEASES).glob(f"{self._archive.digest}*")):
            if path.name.endswith(PARTIAL):
                continue
            try:
                verify_release(self._root, f"{RELEASES}/{path.name}/{BUNDLE}")
            except (EdgeError, OSError):
                continue  # it is staged again, under another name
            return path.name
        return None

    # -- staging -----------------------------------------------------------------------------------------------------

    def _stage(self) -> Smoke:
        """Write the release beside the others and try it out."""
        disk, partial = self._disk, self._partial
        make_folders(disk, partial.parent)
        unpack(self._archive, partial, disk)
        bundle = bundles.verify(partial / BUNDLE)
        sync_tree(disk, partial)
        smoke = self._host.smoke(bundle, self._probe(), partial)
        self._notes += smoke.notes
        return smoke

    def _named(self) -> str:
        """Give what was staged its name, durably; returns it."""
        name = _free_name(self._partial.parent, self._archive.digest)
        self._new = name
        self._disk.rename(self._partial, self._partial.with_name(name))
        self._disk.sync(self._partial.parent)
        return name

    def _serve(self, name: str, state: State, before: str | None) -> None:
        root, disk, target = self._root, self._disk, f"{RELEASES}/{name}/{BUNDLE}"
        self._state_written = True
        write_state(root, disk, state)  # first: cut off here, this very archive may still be installed, no older one
        if self._waits:
            wait_with(root, disk, target)
        elif before != target or target_of(root, NEXT) is not None:
            flip(root, disk, target, before if before != target else target_of(root, PREVIOUS))

    def _undo(self, state: State, had_copy: bool) -> None:
        """Remove what was written. What cannot be removed now, the next installation removes."""
        root, disk = self._root, self._disk
        if not had_copy:
            self._host.forget(self._archive.table.bundle)
        if self._state_written:
            with contextlib.suppress(OSError):
                remove(disk, root / STATE) if state == State() else write_state(root, disk, state)
        with contextlib.suppress(OSError):
            remove(disk, self._partial)
        new = self._new
        if new is not None and (root / RELEASES / new).exists() and release_of(target_of(root, CURRENT)) != new:
            with contextlib.suppress(OSError):
                retire(root, disk, new)

    def _probe(self) -> Probe:
        if self._archive.table.find(PROBE) is None:
            return Probe()
        text = self._archive.read(PROBE).decode("utf-8", "replace")
        return parse(Probe, text, f"{self._archive.path}: {PROBE}")

    # -- after the flip ----------------------------------------------------------------------------------------------

    def _settle(self, name: str, manifest: Manifest) -> tuple[str, ...]:
        """What comes with a new release. It is served by now: what fails here is said, and the release stays."""
        try:
            if not self._waits:
                self._notes += seed(self._root, self._disk, name)
                self._look_at_index(manifest)
            removed = prune(self._root, self._disk, self._options.keep)
            return (*removed, *clear_indexes(self._root, self._disk))
        except OSError as error:
            self._notes.append(f"{error.filename or self._root}: {error.strerror}: run `edge deploy install` again")
            return ()

    def _look_at_index(self, manifest: Manifest) -> None:
        """Say so where the box's index does not fit what is served now."""
        index = index_of(self._root, manifest.embedder.fingerprint)
        if index.is_file():
            note = self._host.index_note(index, manifest)
            if note is not None:
                self._notes.append(note)


def unpack(archive: Archive, folder: Path, disk: Disk) -> None:
    """Write an archive's content into a new folder, every byte checked; what is left on an error is the caller's.

    :raises ArchiveError: a byte is not what it must be.
    """
    disk.mkdir(folder)
    made = {folder}
    disk.write(folder / TABLE, [archive.table_bytes])
    disk.write(folder / SIGNATURES, [archive.signature_bytes])
    for entry, content in archive.walk():
        path = folder / entry.path
        for parent in reversed(path.relative_to(folder).parents):
            if folder / parent not in made:
                disk.mkdir(folder / parent)
                made.add(folder / parent)
        disk.write(path, content)


def _grown(state: State, name: str, digest: str, verified: Verified | None) -> State:
    installed = (*(one for one in state.installed if one != name), name)
    state = dataclasses.replace(state, installed=installed)
    if verified is None:
        return state
    if seconds_of(verified.signed) > seconds_of(state.seen):
        state = dataclasses.replace(state, seen=verified.signed)
    if verified.release > state.release:
        state = dataclasses.replace(state, release=verified.release, archive=digest)
    return state


def _free_name(folder: Path, digest: str) -> str:
    """The digest; with a number where a damaged release has that name, and may be linked to."""
    number = 0
    while (folder / (name := f"{digest}.{number}" if number else digest)).exists():
        number += 1
    return name
