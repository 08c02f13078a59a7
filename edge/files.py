"""Paths, hashes, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def home() -> Path:
    """The folder of the user's bundle, index and configuration: `EDGE_HOME`, else the XDG data folder."""
    if given := os.environ.get("EDGE_HOME"):
        return Path(given).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "edge-slm"


def cache() -> Path:
    """The folder for what can be made or fetched again: `EDGE_CACHE`, else the XDG cache folder."""
    if given := os.environ.get("EDGE_CACHE"):
        return Path(given).expanduser()
    data = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data).expanduser() / "edge-slm"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make a rename or a new name in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part, even after a power cut.

    :param owner: user and group id; None: whoever writes it.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if owner is not None:
            os.chown(partial, *owner)
        Path(partial).chmod(mode)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
