"""Connections to the index file: SQLite through apsw, with sqlite-vec loaded, and the one seam for its errors.

Every statement of this package runs inside `translated`, so no caller ever sees an error of apsw.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import sqlite_vec

from edge.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreMissing

BUSY_TIMEOUT_SEC = 10.0  # a transaction holds the write lock for one document, which takes far less
CACHE_BYTES = 4 * 2**20
WAL_BYTES = 16 * 2**20  # the write-ahead log is cut back to this after a checkpoint
PAGE_BYTES = 4096

# What each result code of SQLite means for a user; codes that are absent are errors in this package's SQL.
# https://www.sqlite.org/rescode.html
ERRORS: dict[type[apsw.Error], tuple[type[StoreError], str]] = {
    apsw.FullError: (StoreFull, "the disk is full; nothing was changed. Free some space and run the command again"),
    apsw.BusyError: (StoreBusy, "another process is writing to the index; wait for it to end and try again"),
    apsw.LockedError: (StoreBusy, "another process is writing to the index; wait for it to end and try again"),
    apsw.ProtocolError: (StoreBusy, "another process keeps the index locked; wait for it to end and try again"),
    apsw.CorruptError: (StoreCorrupt, "the index is damaged. Delete the file and ingest the documents again"),
    apsw.NotADBError: (StoreCorrupt, "this is not an index, or it is damaged. Delete it, or name another with --index"),
    apsw.FormatError: (StoreCorrupt, "the index is damaged. Delete the file and ingest the documents again"),
    apsw.ReadOnlyError: (StoreError, "the index cannot be written: the file or its folder is read-only"),
    apsw.PermissionsError: (StoreError, "the index cannot be used: permission denied"),
    apsw.AuthError: (StoreError, "the index cannot be used: permission denied"),
    apsw.CantOpenError: (StoreError, "the index cannot be opened: check that its folder exists and is writable"),
    apsw.IOError: (StoreError, "reading or writing the index failed: check the disk"),
    apsw.NoLFSError: (StoreError, "the file system cannot hold a file of this size"),
    apsw.NoMemError: (StoreError, "not enough memory to use the index"),
    apsw.TooBigError: (StoreError, "a text or a vector is larger than SQLite can hold"),
    apsw.InterruptError: (StoreError, "the statement was interrupted; nothing was changed"),
    apsw.AbortError: (StoreError, "the statement was aborted; nothing was changed"),
    apsw.SchemaChangeError: (StoreBusy, "the index is being changed by another process; try again"),
    apsw.ExtensionLoadingError: (StoreError, "sqlite-vec cannot be loaded: reinstall the package sqlite-vec"),
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn every error of apsw into one of `edge.errors`, with the file's name and what to do.

    :raises StoreError: or the subclass that `ERRORS` names.
    """
    try:
        yield
    except apsw.Error as error:
        raise translation(error, path) from error


def translation(error: apsw.Error, path: Path) -> StoreError:
    """The error a user sees for an error of apsw."""
    for cls in type(error).__mro__:
        if cls in ERRORS:
            kind, advice = ERRORS[cls]
            return kind(f"{path}: {advice} ({error})")
    return StoreError(f"{path}: the index cannot be used: {type(error).__name__}: {error}")


def connect(path: Path, *, create: bool, frozen: bool = False) -> apsw.Connection:
    """Open the index file; in a folder that cannot be written, open it for reading.

    :param frozen: nobody writes to it, nor does this: not even a file is made beside it.
    :raises StoreMissing: there is no such file and `create` is false.
    :raises StoreError: see `ERRORS`.
    """
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; --index takes the name of a file")
    if not path.exists() and not create:
        raise StoreMissing(f"{path}: there is no index yet; make one with `edge ingest PATH...`")
    with translated(path):
        if create:
            _make_folder(path)
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            connection = apsw.Connection(str(path), flags=flags)
        elif not frozen and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        else:
            connection = _connect_read_only(path)
        try:
            _prepare(connection, create=create)
        except BaseException:
            connection.close()
            raise
    return connection


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent}: the folder of the index cannot be made: {error.strerror}") from None


def _connect_read_only(path: Path) -> apsw.Connection:
    """SQLite cannot make the files beside a WAL database here, so it must be told that nobody writes."""
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size > 0:
        raise StoreError(f"{path}: the folder is read-only and {wal.name} holds changes; make the folder writable once")
    uri = f"file:{urllib.parse.quote(str(path.absolute()))}?immutable=1"
    return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def _prepare(connection: apsw.Connection, *, create: bool) -> None:
    connection.set_busy_timeout(int(BUSY_TIMEOUT_SEC * 1000))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)
    if create and connection.execute("SELECT count(*) FROM sqlite_master").fetchall() == [(0,)]:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES // 1024}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # touches the file: damage shows here
