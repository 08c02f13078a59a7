"""Finished parts -> bundle: one directory with a manifest that names and hashes every file in it.

The same parts give the same bytes: no dates, no paths, no names of machines. The directory is written beside its place
and swapped in by one rename, so a reader finds the old bundle or the new one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from edge.bundle import MANIFEST, SIDECAR, FileEntry, Manifest, Seal, seal
from edge.config import parse
from edge.errors import BuildError, ConfigError
from edge.files import sha256_file, sync_directory
from optimize import disk

LICENCES = Path(__file__).parent / "data" / "licences"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Part:
    """Where one file of the bundle comes from."""

    source: Path | bytes
    sha256: str
    bytes: int


def part_of(source: Path | str, sha256: str | None = None) -> Part:
    """A part from a file whose hash a stage recorded, or from text."""
    if isinstance(source, str):
        data = source.encode()
        return Part(data, hashlib.sha256(data).hexdigest(), len(data))
    if sha256 is None:
        raise ValueError("the hash of a file must be known")
    return Part(source, sha256, source.stat().st_size)


def notices(components: list[tuple[str, str, str, str]]) -> dict[str, Part]:
    """NOTICE.md and LICENSES/: components are (what, id, source, SPDX licence)."""
    lines = ["# Third-party models in this bundle", ""]
    for what, identifier, source, licence in components:
        lines += [f"- {what}: {identifier}, licence {licence}. Taken from {source}."]
    lines += ["", "They were changed: converted to ONNX, and their weights rounded as manifest.yaml says.", ""]
    files = {"NOTICE.md": part_of("\n".join(lines))}
    for licence in sorted({licence for *_, licence in components}):
        text = LICENCES / f"{licence}.txt"
        if text.is_file():
            files[f"LICENSES/{licence}.txt"] = part_of(text.read_text(encoding="utf-8"))
    return files


def write_bundle(manifest: Manifest, parts: dict[str, Part], out: Path) -> tuple[str, bool]:
    """Write the bundle to `out`; return the manifest's sha256 and whether anything had to be written.

    :param manifest: without `files`, which are filled in from `parts` (POSIX path in the bundle -> part).
    :raises BuildError: `out` holds something that is no bundle, a part changed since its stage, or the disk is full.
    """
    files = {path: FileEntry(sha256=part.sha256, bytes=part.bytes) for path, part in sorted(parts.items())}
    sealed = seal(replace(manifest, files=files))
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a link and replace what it points at
    if out.is_symlink():
        out = out.resolve()
    if _is_current(out, sealed, files):
        return sealed.digest, False
    check_place(out)
    disk.require(out.parent, sum(part.bytes for part in parts.values()))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    with disk.explained(out.parent):
        shutil.rmtree(partial, ignore_errors=True)  # of a killed run with the same number
        try:
            for path, part in sorted(parts.items()):
                _write_part(part, partial / path)
            for name, data in sealed.files.items():
                _write_part(Part(data, "", len(data)), partial / name)
            _swap_in(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # after a swap this is the old bundle
    return sealed.digest, True


def check_place(out: Path) -> None:
    """:raises BuildError: a bundle cannot be written to `out`, or what is there is not only a bundle."""
    if out.exists():
        if not out.is_dir() or not (_is_empty_folder(out) or _is_only_a_bundle(out)):
            raise BuildError(
                f"{out} exists and is not a bundle, or not only one; it was left alone. Name another place with --out"
            )
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{out.parent}: the folder for the bundle cannot be made: {error.strerror}") from None
    if not os.access(out.parent, os.W_OK):
        raise BuildError(f"{out.parent}: the folder for the bundle cannot be written to")


def _is_only_a_bundle(out: Path) -> bool:
    """Whether every file there belongs to a bundle that this program wrote, be it damaged or older."""
    try:
        manifest = parse(Manifest, (out / MANIFEST).read_text(encoding="utf-8"), MANIFEST)
    except (OSError, UnicodeDecodeError, ConfigError):
        return False
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    return (out / SIDECAR).is_file() and found <= {*manifest.files, MANIFEST, SIDECAR}


def _is_current(out: Path, sealed: Seal, files: dict[str, FileEntry]) -> bool:
    """Whether `out` is this very bundle, to the last byte."""
    wanted = {path: entry.sha256 for path, entry in files.items()}
    wanted |= {name: hashlib.sha256(data).hexdigest() for name, data in sealed.files.items()}
    try:
        found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if not path.is_dir()}
        return found.keys() == wanted.keys() and all(sha256_file(found[name]) == wanted[name] for name in wanted)
    except OSError:
        return False


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None


def _write_part(part: Part, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        if isinstance(part.source, bytes):
            stream.write(part.source)
        else:
            seen = hashlib.sha256()
            with part.source.open("rb") as source:
                while piece := source.read(_PIECE_BYTES):
                    seen.update(piece)
                    stream.write(piece)
            if seen.hexdigest() != part.sha256:
                raise BuildError(f"{part.source} changed after it was built. Remove {part.source.parent} and run again")
        stream.flush()
        os.fsync(stream.fileno())
    target.chmod(0o644)


def _swap_in(partial: Path, out: Path) -> None:
    """Put `partial` in the place of `out` in one step; afterwards `partial` is what was there before, if anything."""
    if not out.exists():
        partial.replace(out)
    elif not _exchange(partial, out):
        # this file system cannot exchange names (NFS, some overlays): two renames, with a gap between them
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        out.replace(old)
        try:
            partial.replace(out)
        except OSError:
            old.replace(out)
            raise
        old.replace(partial)
    sync_directory(out.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically (Linux, renameat2); False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
