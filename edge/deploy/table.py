"""The table of contents of an archive: its first file, `edge.json`, whose digest is what gets signed.

It names every other file with its size and hash, so that all that an archive may hold is known, and checked against
limits, before a byte of it is written anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from edge.bundle import MANIFEST
from edge.bundle_files import is_plain
from edge.errors import ArchiveError

SCHEMA = 1
TABLE = "edge.json"
SIGNATURES = "edge.sig.json"
BUNDLE = "bundle"
"""The folder of the bundle itself."""
INDEX, CONFIG, PROBE, SBOM = "index.db", "config.yaml", "probe.yaml", "sbom.cdx.json"
FOLDERS = (BUNDLE, "evaluation", "licences")
PARTS = (INDEX, CONFIG, PROBE, SBOM)
"""What may stand beside them. Another part is another schema."""
DELTA = (CHANGES, HEAD) = ("changes.z", "delta.json")
"""All that the delta of an index holds (edge/deploy/delta.py); its table names no bundle."""
MAX_FILES = 4096
MAX_FILE_BYTES = 8**11 - 1  # what the size field of a tar header holds
MAX_BYTES = 64 * 2**30
MAX_TABLE_BYTES = 2 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
AGAIN = "Copy the archive again from where it came"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Table:
    schema: int
    name: str  # of the bundle
    version: str
    bundle: str  # its digest, the sha256 of the manifest; "": the archive is the delta of an index
    architectures: tuple[str, ...]  # machines as `uname -m` calls them; none: any
    files: tuple[Entry, ...]  # sorted by path

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self.files)

    @property
    def is_delta(self) -> bool:
        return self.bundle == ""

    def find(self, path: str) -> Entry | None:
        return next((entry for entry in self.files if entry.path == path), None)


def to_bytes(table: Table) -> bytes:
    """The table as it stands in the archive; one table has one spelling."""
    files = {entry.path: {"bytes": entry.bytes, "sha256": entry.sha256} for entry in table.files}
    plain = {
        "schema": table.schema, "name": table.name, "version": table.version, "bundle": table.bundle,
        "architectures": list(table.architectures), "files": files,
    }  # fmt: skip
    return (json.dumps(plain, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def digest_of(data: bytes) -> str:
    """The digest of an archive: the sha256 of its table, which stands for all of its content but the signatures."""
    return hashlib.sha256(data).hexdigest()


def from_bytes(data: bytes, name: str) -> Table:
    """Read and check a table; `name` stands for the archive in errors.

    :raises ArchiveError: it is none, is of a newer schema, or names what an archive may not hold.
    """
    try:
        plain: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise ArchiveError(f"{name}: its table of contents is damaged. {AGAIN}") from None
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if type(schema) is not int or schema < 1:
        raise ArchiveError(f"{name}: not the archive of a bundle: its table has no schema number. {AGAIN}")
    if schema > SCHEMA:
        raise ArchiveError(
            f"{name}: written in the newer schema {schema}; this program reads up to schema {SCHEMA}. "
            "Update edge-slm here, or pack the bundle with the version that is installed here"
        )
    try:
        files = tuple(Entry(path, entry["bytes"], entry["sha256"]) for path, entry in plain["files"].items())
        table = Table(
            schema, plain["name"], plain["version"], plain["bundle"], tuple(plain["architectures"]), files
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError):
        raise ArchiveError(f"{name}: its table of contents is damaged: a key is missing. {AGAIN}") from None
    check(table, name)
    if to_bytes(table) != data:  # unknown or doubled keys too
        raise ArchiveError(f"{name}: its table of contents is not written as `edge bundle pack` does. {AGAIN}")
    return table


def check(table: Table, name: str) -> None:
    """Hold a table against the limits.

    :raises ArchiveError: the table names what an archive may not hold.
    """
    if not all(isinstance(text, str) for text in (table.name, table.version, *table.architectures)):
        raise ArchiveError(f"{name}: its table of contents is damaged: a name is no text. {AGAIN}")
    if not all(_WORD.fullmatch(one) for one in table.architectures):
        raise ArchiveError(f"{name}: an architecture is no name of a machine. {AGAIN}")
    if not 0 < len(table.files) <= MAX_FILES:
        raise ArchiveError(f"{name}: {len(table.files)} files; an archive holds 1 to {MAX_FILES}")
    for entry in table.files:
        _check_entry(entry, name, DELTA if table.is_delta else PARTS)
    paths = [entry.path for entry in table.files]
    if paths != sorted(set(paths)):
        raise ArchiveError(f"{name}: a file stands twice in its table, or they are not sorted. {AGAIN}")
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if both := folders & set(paths):
        raise ArchiveError(f"{name}: {min(both)} is both a file and a folder. {AGAIN}")
    if table.bytes > MAX_BYTES:
        raise ArchiveError(f"{name}: {table.bytes:,} bytes when unpacked; the limit is {MAX_BYTES:,}")
    if table.is_delta:
        if tuple(paths) != DELTA:
            raise ArchiveError(f"{name}: the delta of an index holds {' and '.join(DELTA)}, nothing else. {AGAIN}")
        return
    manifest = table.find(f"{BUNDLE}/{MANIFEST}")
    if manifest is None or manifest.sha256 != table.bundle:
        raise ArchiveError(f"{name}: the bundle's digest in its table is not that of {BUNDLE}/{MANIFEST}. {AGAIN}")


def _check_entry(entry: Entry, name: str, parts: tuple[str, ...]) -> None:
    path = entry.path
    top, slash, _ = path.partition("/")
    inside = top in FOLDERS if slash else path in parts
    if not path.isascii() or not is_plain(path) or "\\" in path or not inside:
        raise ArchiveError(f"{name}: the path {path!r} leaves the archive or may not stand there. Nothing was unpacked")
    if type(entry.bytes) is not int or not 0 <= entry.bytes <= MAX_FILE_BYTES:
        raise ArchiveError(f"{name}: {path} has a size that cannot be: {entry.bytes!r}")
    if not isinstance(entry.sha256, str) or not _SHA256.fullmatch(entry.sha256):
        raise ArchiveError(f"{name}: {path} has no sha256. {AGAIN}")
