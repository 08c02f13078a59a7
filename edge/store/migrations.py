"""The schema of the index, as numbered steps; each runs in a transaction of its own that also records it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import apsw

from edge.errors import StoreCorrupt, StoreMismatch
from edge.store.connect import translated
from edge.store.vectors import adopt_vec0

# Number -> file. A step that was released is never edited; a change of the schema is a new step.
STEPS = {1: "0001_index.sql", 2: "0002_vectors.sql"}
# What SQL alone cannot do of a step, done after its file and in its transaction.
AFTERWARDS: dict[int, Callable[[apsw.Connection], None]] = {2: adopt_vec0}


def applied(connection: apsw.Connection) -> list[int]:
    """The numbers of the steps that the database has, in order."""
    exists = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'migrations'"
    if not connection.execute(exists).get:
        return []
    return [number for (number,) in connection.execute("SELECT number FROM migrations ORDER BY number")]


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the database to the newest schema.

    :raises StoreCorrupt: what it says of its schema cannot be.
    :raises StoreMismatch: the database is newer than this program, or no index of this program at all.
    """
    with translated(path):
        done = applied(connection)
        if any(not 0 < number < 10_000 for number in done):
            raise StoreCorrupt(f"{path}: the index is damaged. Delete the file and ingest the documents again")
        if unknown := [number for number in done if number not in STEPS]:
            raise StoreMismatch(
                f"{path}: the index is of a newer version of this program (schema {max(unknown)}, known here: "
                f"{max(STEPS)}); update the program, or make a new index with --index"
            )
        if not done and connection.execute("SELECT count(*) FROM sqlite_master").get:
            raise StoreMismatch(f"{path}: this is a SQLite database, but no index; name another file with --index")
        for number in sorted(set(STEPS) - set(done)):
            _apply(connection, number)


def require_newest(connection: apsw.Connection, path: Path) -> None:
    """What `migrate` does for an index that cannot be written: refuse it where there is something to do.

    :raises StoreMismatch: it has another schema than this program's.
    """
    with translated(path):
        done = applied(connection)
        if done != sorted(STEPS):
            raise StoreMismatch(
                f"{path}: the index is of another version of this program (schema {max(done, default=0)}, needed here: "
                f"{max(STEPS)}) and cannot be brought up to date, because its file or folder is read-only; make it "
                "writable once, or ingest into a new one with --index"
            )


def _apply(connection: apsw.Connection, number: int) -> None:
    script = files("edge.store").joinpath(STEPS[number]).read_text(encoding="utf-8")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if number not in applied(connection):  # another process may have been first
            connection.execute(script)
            if number in AFTERWARDS:
                AFTERWARDS[number](connection)
            connection.execute(
                "INSERT INTO migrations (number, name, applied) VALUES (?, ?, datetime('now'))", (number, STEPS[number])
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
