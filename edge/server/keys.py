"""API keys of the daemon: who may do what, and in whose documents.

    keys = Keys.open(state / "keys.json")
    key, token = keys.create("laptop", ["ask", "search"])     # the token is shown once, and kept nowhere
    keys.find(token)                                          # the key, or None

The file holds no token, only hashes. It is read again whenever it has changed, so what `edge key revoke` removes is
refused from the next request on. A file that cannot be used is an error for every request: never "no keys, so all may".
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, get_args

from edge.config import parse
from edge.errors import ConfigError, KeysError, UsageError
from edge.files import write_atomic

Scope = Literal["ask", "search", "ingest", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SCHEMA = 1
FILE = "keys.json"
"""Its name in the state folder."""
_PREFIX = "edge"
_SECRET_BYTES = 32
_ID = re.compile(r"[0-9a-f]{8}")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_CHARS = 64
_REPAIR = (
    "Nobody is let in until it is in order: bring back a copy of the file, or delete it and make the keys anew with "
    "`edge key create`"
)


@dataclass(frozen=True, slots=True)
class Key:
    id: str  # 8 hex digits; part of the token, no secret
    name: str  # for a person; unique in the file
    scopes: tuple[Scope, ...]
    namespace: str  # of the index: the key's documents, and all that it finds
    created: str  # ISO 8601, UTC

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope; `admin` includes the others."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class _Row(Key):
    sha256: str  # hex, of the whole token

    @property
    def key(self) -> Key:
        return Key(self.id, self.name, self.scopes, self.namespace, self.created)

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("id must be 8 and sha256 64 hex digits")
        if not self.scopes or not _NAMESPACE.fullmatch(self.namespace):
            raise ValueError("a key has scopes and a namespace")


@dataclass(frozen=True, slots=True)
class _File:
    schema: int
    keys: tuple[_Row, ...]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema} is not known here, only {SCHEMA}: install a newer edge-slm")
        for field in ("id", "name"):
            if len({getattr(row, field) for row in self.keys}) < len(self.keys):
                raise ValueError(f"two keys have the same {field}")


_EMPTY = _File(SCHEMA, ())
_Seen = tuple[int, int, int, int]  # inode, bytes, and when content and owner changed (ns): a rename changes the inode


class Keys:
    """The keys in one file; safe to use from several threads, and beside other processes that change it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: _Seen | None = None
        self._file = _EMPTY
        self._was_there = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """The keys of a file, which need not exist yet.

        :raises KeysError: it is damaged, cannot be read, or others may write it.
        """
        keys = cls(path)
        keys._current()
        return keys

    @property
    def are_used(self) -> bool:
        """Whether there is a file of keys, or was one: the daemon then asks for a key, even after the last one went.

        :raises KeysError: see `open`.
        """
        self._current()
        return self._was_there

    def create(self, name: str, scopes: Sequence[Scope], namespace: str | None = None) -> tuple[Key, str]:
        """Make a key and its token, which cannot be had again.

        :param namespace: keys of one namespace share their documents; None gives the key one of its own.
        :raises UsageError: the name is taken or unusable, the scopes or the namespace are.
        :raises KeysError: see `open`.
        """
        chosen = _checked(name, scopes, namespace)
        with self._changing() as rows:
            if any(name == row.name for row in rows):
                raise UsageError(f"there is a key {name!r} already: `edge key revoke` it, or take another name")
            taken = {row.id for row in rows} | {row.namespace for row in rows}
            while (id := secrets.token_hex(4)) in taken:
                continue
            token = f"{_PREFIX}_{id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
            created = datetime.now(UTC).isoformat(timespec="seconds")
            row = _Row(id, name, chosen, namespace or id, created, _hash(token))
            rows.append(row)
        return row.key, token

    def find(self, token: str) -> Key | None:
        """The key of a token, or None; takes the same time whether or not a part of the token is right.

        :raises KeysError: see `open`.
        """
        rows = {row.id: row for row in self._current().keys}
        parts = token.split("_", 2)
        row = rows.get(parts[1]) if len(parts) == 3 else None
        # An unknown id is compared too, with what no token hashes to, so that time does not tell which ids there are.
        is_right = hmac.compare_digest(_hash(token), row.sha256 if row is not None else "0" * 64)
        return row.key if row is not None and is_right else None

    def revoke(self, id_or_name: str) -> Key:
        """Remove a key; its documents stay in its namespace.

        :raises UsageError: there is no such key.
        :raises KeysError: see `open`.
        """
        with self._changing() as rows:
            row = next((row for row in rows if id_or_name in (row.id, row.name)), None)
            if row is None:
                raise UsageError(f"there is no key {id_or_name!r}; `edge key list` shows those that there are")
            rows.remove(row)
        return row.key

    def list(self) -> tuple[Key, ...]:
        """All keys, the oldest first.

        :raises KeysError: see `open`.
        """
        return tuple(row.key for row in self._current().keys)

    def _current(self) -> _File:
        """What the file holds now; read only where it has changed."""
        with self._lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                self._seen, self._file = None, _EMPTY
                return _EMPTY
            except OSError as error:
                raise KeysError(f"{self.path}: cannot be read: {error.strerror}. {_REPAIR}") from None
            self._was_there = True
            seen = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if seen != self._seen:
                self._seen = None  # what is damaged is looked at again, and refused again
                self._file = _read(self.path, status)
                self._seen = seen
            return self._file

    @contextmanager
    def _changing(self) -> Iterator[MutableSequence[_Row]]:
        """The rows, to be changed in place; written when the block ends well. One process at a time."""
        folder = self.path.parent
        try:
            if not folder.exists():
                folder.mkdir(parents=True, mode=0o700)
                _give(folder, folder.parent)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                rows = list(self._current().keys)
                yield rows
                text = json.dumps(dataclasses.asdict(_File(SCHEMA, tuple(rows))), indent=2, ensure_ascii=False)
                write_atomic(self.path, text + "\n", mode=0o600, owner=_owner(folder))
                self._was_there = True
            finally:
                os.close(handle)
        except OSError as error:
            raise KeysError(
                f"{self.path}: cannot be written: {error.strerror}; run this as the daemon's user"
            ) from None


def _checked(name: str, scopes: Sequence[Scope], namespace: str | None) -> tuple[Scope, ...]:
    if not name.strip() or len(name) > _NAME_CHARS or not name.isprintable():
        raise UsageError(f"a key's name has 1 to {_NAME_CHARS} printable characters")
    if _ID.fullmatch(name):
        raise UsageError(f"{name!r} looks like the id of a key: take another name")
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    if not chosen or set(scopes) - set(SCOPES):
        raise UsageError(f"say what the key may do: one or more of {', '.join(SCOPES)}")
    if namespace is not None and not _NAMESPACE.fullmatch(namespace):
        raise UsageError("a namespace has 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit")
    return chosen


def _hash(token: str) -> str:
    # A fast hash is right here: 256 random bits cannot be guessed at any speed. Slow hashes are for what people choose.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path, status: os.stat_result) -> _File:
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
        raise KeysError(
            f"{path}: not a regular file, or others may write it: `chmod 600 {path}` and look at `edge key list`"
        )
    try:
        return parse(_File, path.read_text(encoding="utf-8"), str(path))
    except ConfigError as error:
        raise KeysError(f"{error}. {_REPAIR}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path}: cannot be read: {error}. {_REPAIR}") from None


def _owner(folder: Path) -> tuple[int, int] | None:
    """Whom a file in `folder` belongs to: what root writes there must be readable for the daemon's user."""
    status = folder.stat()
    return (status.st_uid, status.st_gid) if os.geteuid() == 0 and status.st_uid != 0 else None


def _give(folder: Path, like: Path) -> None:
    owner = _owner(like)
    if owner is not None:
        os.chown(folder, *owner)
