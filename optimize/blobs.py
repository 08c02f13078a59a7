"""Files kept by their hash, as `<cache>/blobs/<sha256>`: hashed on the way in, and a wrong one is not kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge.errors import SourceError
from edge.files import cache, sha256_file
from optimize import disk

_PIECE_BYTES = 2**20


def blob(sha256: str) -> Path | None:
    """The cached file with this hash, re-read to be sure; a damaged one is removed."""
    path = cache() / "blobs" / sha256
    if not path.is_file():
        return None
    if sha256_file(path) != sha256:
        path.unlink()
        return None
    return path


def keep(path: Path, sha256: str) -> Path:
    with path.open("rb") as stream:
        return _store(stream, path.name, sha256, path.stat().st_size)


def extract(archive: Path, member: str, sha256: str) -> Path:
    """Copy one member of a zip into the store; its name is only looked up, never used as a path."""
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(member)
            with opened.open(info) as stream:
                return _store(stream, f"{archive.name}: {member}", sha256, info.file_size)
    except KeyError:
        raise SourceError(f"{archive.name} has no file {member}") from None
    except zipfile.BadZipFile as error:
        raise SourceError(f"{archive.name} is damaged: {error}. Run again to fetch it anew") from error


def _store(stream: IO[bytes], name: str, sha256: str, size_bytes: int) -> Path:
    folder = cache() / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    disk.require(folder, size_bytes)
    handle, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=folder)
    try:
        seen = hashlib.sha256()
        with os.fdopen(handle, "wb") as target:
            while piece := stream.read(_PIECE_BYTES):
                seen.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        if seen.hexdigest() != sha256:
            raise mismatch(name, sha256, seen.hexdigest())
        return Path(partial).replace(folder / sha256)
    finally:
        Path(partial).unlink(missing_ok=True)


def assemble(files: dict[str, str]) -> Path:
    """A folder in which the blobs have their names back; hard links where the file system has them."""
    key = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    folder = cache() / "folders" / key[:32]
    if folder.is_dir():
        shutil.rmtree(folder)  # links are cheap, and a changed file in here would go unseen
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    for name, sha256 in files.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        kept = cache() / "blobs" / sha256
        try:
            os.link(kept, partial / name)
        except OSError:
            disk.require(partial, kept.stat().st_size)
            shutil.copyfile(kept, partial / name)
    return partial.replace(folder)


@contextmanager
def scratch() -> Iterator[Path]:
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache()) as folder:
        yield Path(folder)


def mismatch(name: str, wanted: str, found: str) -> SourceError:
    return SourceError(
        f"{name}: sha256 is {found}, the recipe says {wanted}. Nothing was kept. Either the file was tampered with or "
        "damaged, or the recipe pins another version"
    )
