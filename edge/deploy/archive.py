"""The archive: a plain POSIX tar (ustar), of which every byte follows from its table of contents and its files.

`tar tvf NAME.edge` lists it and `tar xf` unpacks it. It is not read as a tar here: `_pieces` says which bytes an
archive with this table must have, the writer writes them and the reader compares them. So there is no header to lie
about a size, no link, no second entry of one name, nothing between files or after the last one, and no compression to
make a bomb of. Files of 1 MiB and more begin at a multiple of 64 KiB, the largest page of the CPUs in use, so
that they can be mapped where they are; the gap is a comment in a pax header, which other readers skip.

Order: edge.json (the table), edge.sig.json (the signatures), then the files as the table has them.
Source of the format: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from edge.deploy import table as tables
from edge.deploy.signatures import MAX_SIGNATURES_BYTES, Signatures
from edge.deploy.table import AGAIN, SIGNATURES, TABLE, Entry, Table
from edge.errors import ArchiveError
from edge.files import sync_directory

ALIGN_BYTES = 64 * 2**10
LARGE_BYTES = 2**20
"""From this size on a file begins at a multiple of ALIGN_BYTES."""
_BLOCK = 512
_CHUNK = 2**20
_END = bytes(2 * _BLOCK)

Source = Callable[[Entry], Iterator[bytes]]
"""Gives a file's bytes in pieces."""


class Archive:
    """An archive whose table was found in order; `with` closes it. Its files are not read before they are asked for."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        size = os.fstat(stream.fileno()).st_size
        data = self._head(TABLE, tables.MAX_TABLE_BYTES)
        self.table = tables.from_bytes(data, str(path))
        self.digest = tables.digest_of(data)
        self.table_bytes = data
        self.signature_bytes = self._head(SIGNATURES, MAX_SIGNATURES_BYTES)
        self.signatures = Signatures.from_bytes(self.signature_bytes, str(path))
        if self.signatures.table != self.digest:
            raise ArchiveError(f"{path}: its table and its signatures do not belong together. {AGAIN}")
        self._offsets: dict[str, int] = {}
        self.bytes = 0
        for piece in _pieces(self.table_bytes, self.signature_bytes, self.table):
            if isinstance(piece, Entry):
                self._offsets[piece.path] = self.bytes
            self.bytes += piece.bytes if isinstance(piece, Entry) else len(piece)
        if size != self.bytes:
            cut = "it was cut short" if size < self.bytes else "something was added to it"
            raise ArchiveError(f"{path}: {size:,} bytes where its table says {self.bytes:,}: {cut}. {AGAIN}")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an archive and check its table.

        :raises ArchiveError: there is none, it cannot be read, or its table is not in order.
        """
        try:
            stream = path.open("rb")
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            return cls(path, stream)
        except OSError as error:
            stream.close()
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from None
        except BaseException:
            stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    def read(self, path: str, limit: int = 4 * 2**20) -> bytes:
        """The content of one small file, checked.

        :raises ArchiveError: there is no such file, it is larger than `limit`, or it is damaged.
        """
        entry = self.table.find(path)
        if entry is None or entry.bytes > limit:
            raise ArchiveError(f"{self.path}: {path} is missing or too large. {AGAIN}")
        return b"".join(self.content(entry))

    def content(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes in pieces; after the last one they are known to be the table's.

        :raises ArchiveError: they are not, or cannot be read.
        """
        try:
            self._stream.seek(self._offsets[entry.path])
            yield from self._next(entry)
        except OSError as error:
            raise ArchiveError(f"{self.path}: cannot be read: {error.strerror}") from None

    def walk(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Every file with its bytes, in order; each must be read to its end before the next. Reads the whole archive.

        :raises ArchiveError: a byte is not what it must be; names the file.
        """
        try:
            self._stream.seek(0)
            near = TABLE
            for piece in _pieces(self.table_bytes, self.signature_bytes, self.table):
                if isinstance(piece, Entry):
                    near = piece.path
                    yield piece, self._next(piece)
                elif self._stream.read(len(piece)) != piece:
                    raise ArchiveError(f"{self.path}: damaged or changed near {near}. {AGAIN}")
        except OSError as error:
            raise ArchiveError(f"{self.path}: cannot be read: {error.strerror}") from None

    def verify(self) -> None:
        """Read and compare every byte.

        :raises ArchiveError: see `walk`.
        """
        for _, content in self.walk():
            for _ in content:
                pass

    def _next(self, entry: Entry) -> Iterator[bytes]:
        seen, left = hashlib.sha256(), entry.bytes
        while left:
            data = self._stream.read(min(left, _CHUNK))
            if not data:
                raise ArchiveError(f"{self.path}: it was cut short in {entry.path}. {AGAIN}")
            seen.update(data)
            left -= len(data)
            yield data
        if seen.hexdigest() != entry.sha256:
            raise ArchiveError(f"{self.path}: {entry.path} is damaged or changed. {AGAIN}")

    def _head(self, name: str, limit: int) -> bytes:
        """One of the two files in front, whose size only its header says."""
        header = self._stream.read(_BLOCK)
        try:
            size = int(header[124:135], 8)
        except ValueError:
            size = -1
        if not 0 <= size <= limit or header != tar_header(name, size):
            raise ArchiveError(f"{self.path}: not the archive of a bundle, or damaged at {name}. {AGAIN}")
        data = self._stream.read(size)
        if len(data) != size or self._stream.read(-size % _BLOCK) != bytes(-size % _BLOCK):
            raise ArchiveError(f"{self.path}: it was cut short or damaged in {name}. {AGAIN}")
        return data


def write(out: Path, table: Table, signatures: Signatures, source: Source) -> None:
    """Write an archive, by rename: the same input gives the same bytes.

    :raises ArchiveError: a file is not as the table says, the table is not in order, or the disk is full.
    """
    tables.check(table, str(out))
    pieces = _pieces(tables.to_bytes(table), signatures.to_bytes(), table)
    with written(out) as stream:
        for piece in pieces:
            if isinstance(piece, Entry):
                for data in checked(piece, source(piece), str(out)):
                    stream.write(data)
            else:
                stream.write(piece)


@contextmanager
def written(out: Path) -> Iterator[BinaryIO]:
    """A file that appears whole, or not at all, when the block ends.

    :raises ArchiveError: it cannot be written.
    """
    partial: str | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(out)
        partial = None
        sync_directory(out.parent)
    except OSError as error:
        raise ArchiveError(f"{error.filename or out}: cannot be written: {error.strerror}") from None
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)


def read_pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces."""
    with path.open("rb") as stream:
        while data := stream.read(_CHUNK):
            yield data


def checked(entry: Entry, content: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The bytes of a file, which after the last one are known to be the table's.

    :param name: of what is written from it.
    :raises ArchiveError: they are not.
    """
    seen, size = hashlib.sha256(), 0
    for data in content:
        seen.update(data)
        size += len(data)
        yield data
    if (size, seen.hexdigest()) != (entry.bytes, entry.sha256):
        raise ArchiveError(f"{name}: {entry.path} is not what it was: damaged, or changed while it was read. Try again")


def _pieces(table_bytes: bytes, signature_bytes: bytes, table: Table) -> Iterator[bytes | Entry]:
    """The archive from first byte to last: bytes as they must be, and files whose content the table describes."""
    position = 0
    for name, data in ((TABLE, table_bytes), (SIGNATURES, signature_bytes)):
        piece = tar_header(name, len(data)) + data + bytes(-len(data) % _BLOCK)
        position += len(piece)
        yield piece
    for entry in table.files:
        piece = tar_header(entry.path, entry.bytes)
        if entry.bytes >= LARGE_BYTES:
            piece = _gap(position) + piece
        position += len(piece) + entry.bytes + -entry.bytes % _BLOCK
        yield piece
        yield entry
        if padding := -entry.bytes % _BLOCK:
            yield bytes(padding)
    yield _END


def _gap(position: int) -> bytes:
    """A pax header that holds nothing but a comment, so long that the data after the next header is aligned."""
    room = -(position + 2 * _BLOCK) % ALIGN_BYTES or ALIGN_BYTES
    start = f"{room} comment="
    return tar_header("align", room, tarfile.XHDTYPE) + f"{start:<{room - 1}}\n".encode("ascii")


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header.

    :raises ArchiveError: the name is too long for a tar.
    """
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise ArchiveError(f"{name}: {error}: shorten it") from None
