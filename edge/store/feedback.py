"""The table of feedback, in a SQLite file of its own beside the index: deleting the file deletes all of it.

All SQL about feedback is here; what a row means is in edge/feedback.py. A kept value is JSON where it is a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw

from edge.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreMismatch, StoreMissing
from edge.store.connect import BUSY_TIMEOUT_SEC, ERRORS
from edge.store.migrations import applied

# A step that was released is never edited; a change of the schema is a new step. They stand here and not in files, for
# the numbered files of this folder are the index's.
STEPS = {
    1: (
        "feedback",
        """
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied TEXT NOT NULL) STRICT;

CREATE TABLE feedback (
  id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given again: a deleted row's id names nothing
  asked TEXT NOT NULL,        -- ISO 8601, UTC
  question TEXT NOT NULL,
  passages TEXT NOT NULL,     -- JSON, what the prompt showed or would have: [{marker, document, heading, text}]
  answer TEXT NOT NULL,       -- as shown
  support INTEGER,            -- marker of the passage that the answer cites first
  abstained INTEGER NOT NULL, -- 1: it said that the documents hold no answer
  bundle TEXT,                -- digest of the bundle's manifest; NULL where a person wrote the row
  thumb TEXT CHECK (thumb IN ('up', 'down')),
  correction TEXT,            -- what it should have said; '' where the passages hold no answer
  rated TEXT                  -- ISO 8601, UTC; NULL: not rated
) STRICT;
""",
    )
}
COLUMNS = (
    "id", "asked", "question", "passages", "answer", "support", "abstained", "bundle", "thumb", "correction", "rated",
)  # fmt: skip
_ADVICE: dict[type[StoreError], str] = {
    StoreFull: "the disk is full; nothing was changed. Free some space and try again",
    StoreBusy: "another process is writing to the feedback; wait for it to end and try again",
    StoreCorrupt: "this is no feedback file, or it is damaged; move it away to start anew",
    StoreError: "the feedback cannot be read or written: check the file, its folder and their permissions",
}


class FeedbackTable:
    """The open file. Use as a context manager; one object serves one thread at a time."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the file, or with `create` make one that only its owner can read.

        :raises StoreMissing: there is no file and `create` is false.
        :raises StoreMismatch: a newer version of this program made it, or it is another database.
        :raises StoreError: it cannot be opened.
        """
        if not path.exists() and not create:
            raise StoreMissing(f"{path}: no feedback is kept here yet; `feedback: enabled: true` in the configuration")
        self.path = path
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)  # what people asked is theirs alone
        except OSError as error:
            raise StoreError(f"{path}: the feedback cannot be kept: {error.strerror}") from None
        with self._translated():
            self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._translated():
            self._connection.close()

    def insert(self, values: dict[str, Any]) -> int:
        """Add a row of the columns that are given; returns its id."""
        names = [name for name in COLUMNS if name in values]
        marks = ", ".join("?" for _ in names)
        sql = f"INSERT INTO feedback ({', '.join(names)}) VALUES ({marks}) RETURNING id"
        return int(self._ids(sql, *(values[name] for name in names))[0])

    def rate(self, id: int, thumb: str, correction: str | None, rated: str) -> bool:
        """Set or replace a row's rating; false where there is no such row."""
        sql = "UPDATE feedback SET thumb = ?, correction = ?, rated = ? WHERE id = ? RETURNING id"
        return bool(self._ids(sql, thumb, correction, rated, id))

    def rows(self, *, rated: bool = False, limit: int | None = None) -> list[dict[str, Any]]:
        """Rows, the oldest first; `rated` only those with a thumb, `limit` only the last so many."""
        where = " WHERE thumb IS NOT NULL" if rated else ""
        sql = f"SELECT {', '.join(COLUMNS)} FROM feedback{where} ORDER BY id DESC LIMIT ?"
        with self._translated():
            found = self._connection.execute(sql, (-1 if limit is None else limit,)).fetchall()
        return [dict(zip(COLUMNS, row, strict=True)) for row in reversed(found)]

    def delete(self, ids: Sequence[int] | None) -> int:
        """Delete rows, or all for None, and their text from the file; returns how many there were."""
        if ids is None:
            gone = self._ids("DELETE FROM feedback RETURNING id")
        else:
            listed = json.dumps(list(ids))
            gone = self._ids("DELETE FROM feedback WHERE id IN (SELECT value FROM json_each(?)) RETURNING id", listed)
        with self._translated():
            self._connection.execute("VACUUM")  # gives the room back; secure_delete has overwritten the text
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(gone)

    def _ids(self, sql: str, *values: apsw.SQLiteValue) -> list[int]:
        """The ids of the rows that a statement wrote; it is a transaction of its own."""
        with self._translated():
            rows: list[Any] = self._connection.execute(sql, values).fetchall()
            return [id for (id,) in rows]

    def _prepare(self) -> None:
        with self._translated():
            self._connection.set_busy_timeout(int(BUSY_TIMEOUT_SEC * 1000))
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._migrate()
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        done = applied(self._connection)
        if unknown := set(done) - set(STEPS):
            raise StoreMismatch(
                f"{self.path}: the feedback is of a newer version of this program (schema {max(unknown)}, known here: "
                f"{max(STEPS)}); update the program"
            )
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "feedback" not in tables:
            raise StoreMismatch(f"{self.path}: this is a SQLite database, but none of feedback; move it away")
        for number in sorted(set(STEPS) - set(done)):
            name, script = STEPS[number]
            self._connection.execute(script)
            self._connection.execute(
                "INSERT INTO migrations (number, name, applied) VALUES (?, ?, datetime('now'))", (number, name)
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors become those of `edge.errors`, of the same kinds as the index's."""
        try:
            yield
        except apsw.Error as error:
            kinds = [ERRORS[cls][0] for cls in type(error).__mro__ if cls in ERRORS]
            kind = kinds[0] if kinds else StoreError
            raise kind(f"{self.path}: {_ADVICE[kind]} ({error})") from error
