"""The delta of an index as one file, signed and checked as bundles are.

An archive (`edge.deploy.archive`) without a bundle: `delta.json` says what it applies to, `changes.z` is the stream of
`edge.ingest.delta`. So `edge bundle sign` and `edge bundle verify` work on it as on any other.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.deploy import table as tables
from edge.deploy import trust as trusts
from edge.deploy.archive import Archive, read_pieces, write
from edge.deploy.disk import Disk
from edge.deploy.releases import locked, read_state
from edge.deploy.signatures import Signatures
from edge.deploy.table import AGAIN, CHANGES, HEAD, Entry, Table
from edge.deploy.trust import Verified
from edge.errors import ArchiveError, TrustError
from edge.ingest import delta as deltas
from edge.ingest.delta import Applied, Head
from edge.store.chunks import Store
from edge.store.upkeep import compact_where_it_pays

MAX_HEAD_BYTES = 2**16


@dataclass(frozen=True)
class Options:
    trusted: Path | None = None  # trust file; None: trust.yaml of the box
    allow_unsigned: bool = False  # and untrusted, expired, revoked: whatever is whole
    others: bool = False  # the index may hold more than the delta knows of


@dataclass(frozen=True, slots=True)
class Delta:
    """What applying a delta did, and who signed it."""

    applied: Applied
    verified: Verified | None  # None: not trusted, and allowed to be
    gained_bytes: int  # that a compaction gave back afterwards
    notes: tuple[str, ...]


def pack(old: Store, new: Store, out: Path) -> Head:
    """Write the delta from `old` to `new`, unsigned; the same two give the same bytes.

    :raises StoreMismatch, UsageError: see `edge.ingest.delta.make`.
    :raises ArchiveError: the file cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as scratch:

            def keep(data: bytes) -> None:
                nonlocal size
                scratch.write(data)
                digest.update(data)
                size += len(data)

            head = deltas.make(old, new, keep)
            scratch.flush()
            told = msgspec.json.encode(head) + b"\n"
            files = (
                Entry(CHANGES, size, digest.hexdigest()),
                Entry(HEAD, len(told), hashlib.sha256(told).hexdigest()),
            )
            table = Table(tables.SCHEMA, "index delta", head.result[:12], "", (), files)
            signatures = Signatures(tables.SCHEMA, tables.digest_of(tables.to_bytes(table)))
            write(out, table, signatures, lambda entry: _source(entry, Path(scratch.name), told))
    except OSError as error:
        raise ArchiveError(f"{error.filename or out}: cannot be written: {error.strerror}") from None
    return head


def apply(path: Path, store: Store, root: Path, options: Options) -> Delta:
    """Check a delta, all of it, and apply it to an index of the box `root` in one transaction.

    :raises ArchiveError: it is damaged, or no delta.
    :raises TrustError: nobody trusted has signed it.
    :raises StoreError: see `edge.ingest.delta.apply`; whatever is raised, nothing was changed.
    """
    notes: list[str] = []
    with Archive.open(path) as archive, _held(root, store):
        verified = _verified(archive, root, options, notes)
        head = head_of(archive)
        archive.verify()
        (entry,) = (one for one in archive.table.files if one.path == CHANGES)
        applied = deltas.apply(store, head, lambda: archive.content(entry), others=options.others)
        gained = 0 if applied.was_applied else compact_where_it_pays(store)
    return Delta(applied, verified, gained, tuple(notes))


def head_of(archive: Archive) -> Head:
    """What a delta says of itself.

    :raises ArchiveError: it is a bundle's archive, damaged, or of a newer schema.
    """
    if not archive.table.is_delta:
        raise ArchiveError(f"{archive.path}: the archive of a bundle, no delta: `edge deploy install` takes it")
    data = archive.read(HEAD, MAX_HEAD_BYTES)
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema > deltas.SCHEMA:
            raise ArchiveError(f"{archive.path}: a delta of the newer schema {schema}. Update edge-slm here")
        return msgspec.json.decode(data, type=Head)
    except msgspec.DecodeError as error:
        raise ArchiveError(f"{archive.path}: {HEAD} is damaged: {error}. {AGAIN}") from None


class _Schema(msgspec.Struct):
    schema: int


@contextmanager
def _held(root: Path, store: Store) -> Iterator[None]:
    """No installation meanwhile, where it is the box's own index: one may have it embedded anew, and miss this."""
    if store.path.resolve().parent != root.resolve():
        yield
        return
    with locked(root, Disk()):
        yield


def _source(entry: Entry, changes: Path, head: bytes) -> Iterator[bytes]:
    return iter((head,)) if entry.path == HEAD else read_pieces(changes)


def _verified(archive: Archive, root: Path, options: Options, notes: list[str]) -> Verified | None:
    try:
        trust = trusts.read_trust(options.trusted or root / trusts.TRUST)
        return trusts.check(archive, trust, now=time.time(), seen=read_state(root).seen)
    except TrustError as error:
        if not options.allow_unsigned:
            raise
        notes.append(f"applied though nobody vouches for it: {error}")
        return None
