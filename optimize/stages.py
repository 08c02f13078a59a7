"""A stage reads one parent and writes a new folder: whole, or not at all.

The folder's name is the sha256 of everything the stage read, so a second run finds it and does nothing. A stage works
in `<name>.partial` under a lock, brings its files to the disk, writes `stage.json` (the hashes of its files) last, and
renames. A killed build leaves only a `.partial` folder, which the next run removes.

A finished stage is used again where its files are what the record says. Reading half a gigabyte to know that takes a
second or more, so a file is read again only when its size or its time of change is not the one it had when it was last
hashed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.config import to_plain
from edge.errors import BuildError
from edge.files import cache, sha256_file, sync_directory, write_atomic
from optimize import disk

RECORD = "stage.json"


@dataclass(frozen=True)
class Stage:
    """A finished stage. `digest` is the sha256 over its files: what the next stage says it read."""

    name: str
    key: str  # sha256 of what it read
    path: Path
    digest: str
    cached: bool
    seconds: float
    files: dict[str, str]  # POSIX path in the folder -> sha256
    built_sec: float = 0.0  # when it was built; `seconds` is what this run took


def run_stage(name: str, reads: dict[str, Any], build: Callable[[Path], object], needed_bytes: int = 0) -> Stage:
    """Return the folder of the stage `name` that read `reads`, building it with `build(folder)` if it is not there.

    :param reads: everything that decides the result, as plain data or dataclasses: recipe keys, parents' digests,
        `tools(...)`, `code(...)`.
    :param needed_bytes: room that the stage needs on disk while it works.
    :raises BuildError: whatever `build` raises of that kind, or the disk is full.
    """
    started = time.monotonic()
    key = digest_of(reads)
    folder = cache() / "stages" / f"{name}-{key[:32]}"
    with _locked(folder.with_suffix(".lock")):
        if found := _finished(folder):
            digest, files, built_sec = found
            return Stage(name, key, folder, digest, True, time.monotonic() - started, files, built_sec)
        disk.require(folder, needed_bytes)
        partial = folder.with_suffix(".partial")
        for leftover in (partial, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with disk.explained(partial):
                build(partial)
                files = hash_folder(partial)
                _bring_to_disk(partial)  # after hashing: the kernel has written much of it meanwhile
                seconds = time.monotonic() - started
                _write_record(partial, to_plain(reads), files, seconds)
                partial.replace(folder)
                sync_directory(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Stage(name, key, folder, digest_of(files), False, time.monotonic() - started, files, seconds)


def digest_of(value: Any) -> str:
    """Hex sha256 of plain data or a dataclass, independent of the order of keys."""
    return hashlib.sha256(json.dumps(to_plain(value), sort_keys=True).encode()).hexdigest()


def tools(*packages: str) -> dict[str, str]:
    """Installed versions, without importing anything.

    :raises BuildError: one is not installed; says which extra brings it.
    """
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise BuildError(f"{package} is not installed: run pip install 'edge-slm[optimize]'") from None
    return versions


def code(*modules: ModuleType) -> str:
    """Hex sha256 of the source of the modules that do a stage's work: a changed stage is built anew."""
    return hashlib.sha256("".join(inspect.getsource(module) for module in modules).encode()).hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """POSIX path -> sha256 of every file below `folder`, but for the stage's own record."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _finished(folder: Path) -> tuple[str, dict[str, str], float] | None:
    """Digest, files and building time of a finished stage; None where a file is missing or not what it wrote."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files, seen, seconds = dict(record["files"]), dict(record.get("seen", {})), float(record.get("seconds", 0.0))
        touched = [path for path in files if seen.get(path) != _stamp(folder / path)]
        if any(sha256_file(folder / path) != files[path] for path in touched):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if touched:  # copied, or restored from a backup: the same bytes at another time
        _write_record(folder, record["reads"], files, seconds)
    return digest_of(files), files, seconds


def _write_record(folder: Path, reads: Any, files: dict[str, str], seconds: float) -> None:
    seen = {path: _stamp(folder / path) for path in files}
    write_atomic(folder / RECORD, json.dumps({"reads": reads, "files": files, "seen": seen, "seconds": seconds}))


def _stamp(file: Path) -> list[int]:
    """What changes when a file is written to: its size in bytes, and the time of its last change in nanoseconds."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _bring_to_disk(folder: Path) -> None:
    """Make everything below `folder` survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_directory(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` against other builds; the kernel lets go of it when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
