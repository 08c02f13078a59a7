"""What changed from one index to another, as a stream of documents; applied in one transaction, without an embedder.

A delta says by digest which documents an index must hold for it, and which it will hold then. So it is refused where it
does not belong, and known where it has been applied. Its stream is zlib over frames, each of them a length (4 bytes,
big-endian) and a `Change` in MessagePack; bytes of vectors are sorted by their place in the float, which makes them
smaller by a tenth.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.errors import StoreError, StoreMismatch, UsageError
from edge.store.chunks import Identity, Store
from edge.store.contents import Content, content, digest_of, put, state_of, vectors

SCHEMA = 1
MAX_FRAME_BYTES = 2**29  # of one document: an ingest reads no larger files
_LENGTH = struct.Struct(">I")
_READ_BYTES = 2**16
_DAMAGED = "its stream of changes is damaged. Copy it again from where it came, or make it anew"


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a delta says of itself."""

    schema: int
    embedder: str  # fingerprint; this and the three below as in `Identity`
    dim: int
    chunker: str
    terms: str
    base: str  # `digest_of` the documents that it applies to
    result: str  # and of those that are there afterwards
    added: int  # documents
    replaced: int
    removed: int
    chunks: int  # that it brings

    @property
    def identity(self) -> Identity:
        return Identity(self.embedder, self.dim, self.chunker, self.terms)


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One document."""

    source: str
    before: str | None  # the digest of its content in the base; None: it is added
    content: Content | None  # None: it is removed
    vectors: bytes = b""  # float32 little-endian (n_chunks, dim): the first bytes of all numbers, the second, ...

    @property
    def after(self) -> str | None:
        return self.content.digest if self.content is not None else None


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying did; nothing is counted where it had been done before."""

    was_applied: bool
    added: int = 0
    replaced: int = 0
    removed: int = 0
    chunks: int = 0


def make(old: Store, new: Store, write: Callable[[bytes], object]) -> Head:
    """Write the stream of changes from `old` to `new`, the same bytes for the same two indexes.

    :raises StoreMismatch: they were made with different embedders, chunkers or rules for terms.
    :raises UsageError: they hold the same.
    """
    identity = new.identity
    _require(old, identity, f"that is how {new.path} was made: `edge index rebuild` one of them")
    before, after = state_of(old), state_of(new)
    removed = sorted(before.keys() - after.keys())
    changed = sorted(source for source in after if before.get(source) != after[source])
    if not removed and not changed:
        raise UsageError(f"{new.path}: it holds the same documents as {old.path}: there is nothing to send")
    packer, chunks = zlib.compressobj(6), 0
    for source in [*removed, *changed]:  # removed ones first: what comes then finds their room free
        found = content(new, source)
        rows = _shuffled(vectors(new, source)) if found is not None else b""
        frame = msgspec.msgpack.encode(Change(source, before.get(source), found, rows))
        write(packer.compress(_LENGTH.pack(len(frame)) + frame))
        chunks += len(found.chunks) if found is not None else 0
    write(packer.flush())
    replaced = sum(source in before for source in changed)
    return Head(
        SCHEMA, **asdict(identity), base=digest_of(before), result=digest_of(after),
        added=len(changed) - replaced, replaced=replaced, removed=len(removed), chunks=chunks,
    )  # fmt: skip


def apply(store: Store, head: Head, stream: Callable[[], Iterable[bytes]], *, others: bool = False) -> Applied:
    """Apply a delta in one transaction: whoever reads meanwhile, or comes after a kill, sees all of it or nothing.

    :param stream: gives the stream's bytes in pieces, from the start at each call; may raise, which undoes everything.
    :param others: the index may hold more than the delta's base; of the documents that it changes, it must hold those.
    :raises StoreMismatch: the index is not what it applies to: nothing was changed.
    :raises StoreBusy, StoreFull: nothing was changed.
    """
    _require(store, head.identity, "the delta is of another embedder or chunker: make it of an index like this one")
    if head.terms != lexical.VERSION:
        raise StoreMismatch(f"{store.path}: its words are cut by older rules than this program's: `edge index rebuild`")
    with store.transaction():
        state = state_of(store)
        found = digest_of(state)
        if found == head.result:
            return Applied(was_applied=True)
        if found != head.base and _refused(store, state, stream, others):
            return Applied(was_applied=True)
        for change in changes(stream()):
            _put(store, change, head.dim)
            state.pop(change.source, None)
            if change.after is not None:
                state[change.source] = change.after
        if found == head.base and digest_of(state) != head.result:
            raise StoreError(f"{store.path}: the delta does not give what it says: nothing was changed. Make it anew")
    return Applied(False, head.added, head.replaced, head.removed, head.chunks)


def changes(pieces: Iterable[bytes]) -> Iterator[Change]:
    """The changes of a stream, one at a time.

    :raises StoreError: it is damaged.
    """
    unpacker, data = zlib.decompressobj(), bytearray()
    decoder = msgspec.msgpack.Decoder(Change)
    try:
        for piece in pieces:
            while piece:
                data += unpacker.decompress(piece, _READ_BYTES)
                piece = unpacker.unconsumed_tail
                yield from (decoder.decode(frame) for frame in _frames(data))
        if not unpacker.eof or data or unpacker.unused_data:
            raise StoreError(f"the delta cannot be used: {_DAMAGED}")
    except (zlib.error, msgspec.DecodeError) as error:
        raise StoreError(f"the delta cannot be used: {_DAMAGED} ({error})") from None


def _frames(data: bytearray) -> Iterator[bytes]:
    """Take whole frames off the front of what was read."""
    while len(data) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        if end > MAX_FRAME_BYTES:
            raise StoreError(f"the delta cannot be used: {_DAMAGED}")
        if len(data) < end:
            return
        frame = bytes(data[_LENGTH.size : end])
        del data[:end]
        yield frame


def _put(store: Store, change: Change, dim: int) -> None:
    if change.content is None:
        store.remove([change.source])
        return
    if change.content.source != change.source or len(change.vectors) != 4 * dim * len(change.content.chunks):
        raise StoreError(f"the delta cannot be used: {_DAMAGED}")
    put(store, change.content, _unshuffled(change.vectors, dim))
    written = content(store, change.source)
    if written is None or written.digest != change.after:
        raise StoreError(
            f"{store.path}: {change.source} does not come out as it was: nothing was changed. Make the delta with the "
            "version of edge-slm that is installed here"
        )


def _refused(store: Store, state: dict[str, str], stream: Callable[[], Iterable[bytes]], others: bool) -> bool:
    """What is to be done with an index that is not the base: refuse it, or True where it has the changes already."""
    seen: set[Literal["before", "after", "neither"]] = set()
    for change in changes(stream()):
        now = state.get(change.source)
        seen.add("before" if now == change.before else "after" if now == change.after else "neither")
    if others and seen <= {"before"}:
        return False
    if others and seen <= {"after"}:
        return True
    what = f"{store.path}: nothing was changed: it does not hold the documents that the delta was made for"
    if seen <= {"before"}:
        raise StoreMismatch(
            f"{what}, but those that the delta changes are as it expects. If the others are to stay as they are, say "
            "--others"
        )
    if seen <= {"after"}:
        raise StoreMismatch(f"{what}, but those that the delta changes are in it already, as it would leave them")
    raise StoreMismatch(f"{what}. Make one with `edge index delta` from a copy of this index")


def _require(store: Store, wanted: Identity, advice: str) -> None:
    found = store.identity
    if found != wanted:
        differ = [name for name, value in asdict(wanted).items() if getattr(found, name) != value]
        raise StoreMismatch(f"{store.path}: nothing was changed: another {' and '.join(differ)}: {advice}")


def _shuffled(rows: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(rows, "<f4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _unshuffled(data: bytes, dim: int) -> NDArray[np.float32]:
    rows = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(4, -1).T)
    return rows.view("<f4").reshape(-1, dim)
