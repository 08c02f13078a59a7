"""What changes from one bundle to another: files, bytes to send, and what the gates measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import bundle as bundles
from edge.bundle import MANIFEST, Manifest
from edge.deploy.archive import Archive
from edge.deploy.pack import files_of
from edge.deploy.table import BUNDLE


@dataclass(frozen=True, slots=True)
class Diff:
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    send_bytes: int  # of files whose content the first does not have, under whatever name
    gates: dict[str, tuple[Any, Any]]  # dotted key -> what the first measured, and the second; None: not measured


def diff(old: Path, new: Path) -> Diff:
    """Compare two archives or bundle folders; the files themselves are not read.

    :raises EdgeError: one is neither.
    """
    before, after = files_of(old)[1], files_of(new)[1]
    changed = tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name]))
    has = {entry.sha256 for entry in before.values()}
    send = {entry.sha256: entry.bytes for entry in after.values() if entry.sha256 not in has}
    first, second = dict(_flat(_manifest(old).gate)), dict(_flat(_manifest(new).gate))
    return Diff(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=changed,
        removed=tuple(sorted(before.keys() - after.keys())),
        send_bytes=sum(send.values()),
        gates={key: (first.get(key), second.get(key)) for key in dict.fromkeys([*first, *second])},
    )


def _manifest(path: Path) -> Manifest:
    if path.is_dir():
        return bundles.load(path).manifest
    with Archive.open(path) as archive:
        return manifest_of(archive)


def manifest_of(archive: Archive) -> Manifest:
    """The manifest inside an archive, checked against the table.

    :raises BundleError: it is no manifest, or of a newer schema.
    :raises ArchiveError: it is damaged.
    """
    name = f"{BUNDLE}/{MANIFEST}"
    text = archive.read(name).decode("utf-8", "replace")
    return bundles.parse_manifest(text, f"{archive.path}: {name}")


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a mapping, by dotted key; thresholds are no measurements."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name != "thresholds":
                yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
