"""From a registry to an archive, a folder or a release; what is on this machine already is not fetched again."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.deploy import archive as archives
from edge.deploy import table as tables
from edge.deploy.archive import Archive
from edge.deploy.host import Host
from edge.deploy.install import MARGIN_BYTES, Installed, Options, install, precheck
from edge.deploy.links import RELEASES, refused
from edge.deploy.registry import blobs as caches
from edge.deploy.registry.blobs import Blobs
from edge.deploy.registry.client import Client
from edge.deploy.registry.http import Settings
from edge.deploy.registry.layout import Blob, Layer, check_layers, read_manifest
from edge.deploy.registry.push import Progress, opened, silent
from edge.deploy.registry.reference import Reference
from edge.deploy.signatures import Signatures
from edge.deploy.table import TABLE, Entry
from edge.deploy.unpack import check_new, write_folder
from edge.errors import ArchiveError, EdgeError, RegistryError
from edge.sizes import mib

Bytes = Callable[[], Iterator[bytes]]
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did."""

    reference: str
    digest: str  # of the manifest, hex
    archive: str  # of the release
    fetched_bytes: int  # over the network, the manifest and its like included
    reused_bytes: int  # of files that were here already
    resumed_bytes: int  # that an earlier try had left
    fetched_layers: int
    layers: int
    seconds: float


class RemoteArchive(Archive):
    """An archive in a registry: its table and signatures are here, its files come when they are asked for.

    It gives the same bytes as the file that was pushed, checked in the same way. See `connected`.
    """

    def __init__(self, client: Client, blobs: Blobs, local: dict[str, Bytes], on_progress: Progress) -> None:
        self._client, self._blobs, self._on_progress = client, blobs, on_progress
        self._started = time.monotonic()
        self.path = Path(str(client.reference))
        data, kind, self.manifest_digest = client.manifest()
        self._fetched = len(data)
        self._resumed = 0
        artifact = read_manifest(data, kind, str(self.path))
        self.table_bytes = self._small(artifact.table, TABLE)
        self.digest = artifact.table.sha256
        self.table = tables.from_bytes(self.table_bytes, str(self.path))
        self.signature_bytes = self._small(artifact.signatures, artifact.signatures.title)
        self.signatures = Signatures.from_bytes(self.signature_bytes, str(self.path))
        if self.signatures.table != self.digest:
            raise ArchiveError(f"{self.path}: its table and its signatures do not belong together. Push it again")
        layers = check_layers(self.table, artifact.layers, str(self.path))
        self.bytes = self.table.bytes
        self._local = {
            entry.sha256: local[entry.sha256]
            for entry in self.table.files
            if entry.sha256 in local and _is_whole(entry, local[entry.sha256])
        }
        self._layers = tuple(zip(layers, artifact.layers, strict=True))
        self._layer_of = {entry.path: number for number, layer in enumerate(layers) for entry in layer.files}
        self._files: dict[str, Path] = {}  # blobs that have arrived, by digest
        self._moved: set[str] = set()  # those of which bytes came over the network

    def __exit__(self, *exc: object) -> None:
        """Nothing of its own is open."""

    @property
    def missing_bytes(self) -> int:
        """Of layers that are still to be fetched."""
        return sum(blob.size - self._blobs.kept_bytes(blob) for _, blob in self._missing())

    def fetch(self, target: Path) -> None:
        """Fetch whatever is missing, once there is room for it.

        :param target: where the files will be written after that.
        :raises RegistryError: there is no room, or the registry fails.
        """
        self._check_room(target)
        for layer, blob in self._missing():
            self._fetch(layer, blob)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """See `Archive.content`."""
        return archives.checked(entry, self.unchecked(entry), str(self.path))

    def unchecked(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes from where they lie, for those who compare them with the table themselves.

        :raises ArchiveError: they cannot be read.
        """
        try:
            if entry.sha256 in self._local:
                yield from self._local[entry.sha256]()
            else:
                layer, blob = self._layers[self._layer_of[entry.path]]
                yield from _slice(self._fetch(layer, blob), layer.offsets()[entry.path], entry.bytes)
        except OSError as error:
            raise ArchiveError(f"{self.path}: {entry.path} cannot be read: {error.strerror}. Try again") from None

    def walk(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """See `Archive.walk`."""
        for entry in self.table.files:
            yield entry, self.content(entry)

    def done(self) -> Pulled:
        """What was moved; the blobs are removed, as their bytes are in their place."""
        layers = {blob.sha256: blob.size for _, blob in self._layers}
        here = sum(size for sha256, size in layers.items() if sha256 not in self._files)
        self._blobs.clear()
        return Pulled(
            str(self.path), self.manifest_digest, self.digest, self._fetched, here, self._resumed, len(self._moved),
            len(layers), time.monotonic() - self._started,
        )  # fmt: skip

    def _missing(self) -> list[tuple[Layer, Blob]]:
        found = {
            blob.sha256: (layer, blob)
            for layer, blob in self._layers
            if blob.sha256 not in self._files and any(one.sha256 not in self._local for one in layer.files)
        }
        return list(found.values())

    def _fetch(self, layer: Layer, blob: Blob) -> Path:
        if blob.sha256 not in self._files:
            kept = self._blobs.kept_bytes(blob)
            try:
                path, moved = self._blobs.fetch(self._client, blob, self._on_progress)
            except OSError as error:
                raise RegistryError(
                    f"{error.filename or self._blobs.path}: {error.strerror}: {blob.title} cannot be kept, and what "
                    "was fetched was removed again. Free some room, or name another folder in EDGE_CACHE"
                ) from None
            self._fetched += moved
            self._moved |= {blob.sha256} if moved else set()
            self._resumed += min(kept, blob.size - min(moved, blob.size))
            self._files[blob.sha256] = path
        return self._files[blob.sha256]

    def _small(self, blob: Blob, title: str) -> bytes:
        """A blob of a few KiB, which is not kept."""

        def once() -> bytes:
            with self._client.blob(blob.sha256, blob.size, 0, title) as (_, pieces):
                found = bytearray()
                for data in pieces:
                    found += data
                    if len(found) > blob.size:
                        break
            return bytes(found)

        data = self._client.again(once)
        self._fetched += len(data)
        if hashlib.sha256(data).hexdigest() != blob.sha256 or len(data) != blob.size:
            raise RegistryError(
                f"{self.path}: {title} has another digest than its manifest says: damaged in the registry or on the "
                "way, or changed by somebody. Try again, or push it again"
            )
        return data

    def _check_room(self, target: Path) -> None:
        cache, folder = self._blobs.path, _existing(target)
        need = self.missing_bytes + MARGIN_BYTES
        if cache.stat().st_dev == folder.stat().st_dev:
            need += self.table.bytes
        elif (free := shutil.disk_usage(folder).free) < self.table.bytes + MARGIN_BYTES:
            raise RegistryError(f"{folder}: {mib(free)} free, and {mib(self.table.bytes)} are needed: free some room")
        if (free := shutil.disk_usage(cache).free) < need:
            raise RegistryError(
                f"{cache}: {mib(free)} free, and {mib(need)} are needed: free some room, or name another folder in "
                "EDGE_CACHE. Nothing was fetched"
            )


@contextmanager
def connected(
    reference: Reference,
    settings: Settings | None = None,
    *,
    reuse: Iterable[Path] = (),
    on_progress: Progress = silent,
) -> Iterator[RemoteArchive]:
    """Open an archive in a registry.

    :param reuse: archives and folders of some on this machine; what cannot be read there is fetched.
    :raises RegistryError: the registry cannot be reached, refuses, or has something else under that name.
    :raises ArchiveError: the table is damaged or of a newer schema.
    """
    with ExitStack() as stack:
        client = stack.enter_context(Client(reference, settings))
        blobs = stack.enter_context(caches.opened())
        yield RemoteArchive(client, blobs, _local(reuse, stack), on_progress)


def pull(
    reference: Reference,
    out: Path,
    settings: Settings | None = None,
    *,
    reuse: Iterable[Path] = (),
    on_progress: Progress = silent,
) -> Pulled:
    """Fetch an archive into a file NAME.edge, the same bytes as were pushed, or unpacked into a new folder.

    :raises UsageError: the folder is there already.
    :raises RegistryError, ArchiveError: see `connected`; or it cannot be written. `out` is as it was.
    """
    as_file = out.suffix == ".edge"
    if not as_file:
        check_new(out)
    with connected(reference, settings, reuse=[*reuse, out], on_progress=on_progress) as archive:
        archive.fetch(out)
        if as_file:
            archives.write(out, archive.table, archive.signatures, archive.unchecked)
        else:
            write_folder(archive, out)
        return archive.done()


def install_from(
    reference: Reference,
    root: Path,
    options: Options,
    settings: Settings | None = None,
    *,
    host: Host,
    on_progress: Progress = silent,
) -> tuple[Installed, Pulled]:
    """Install what a registry holds. Whether it is refused is known before its large files are fetched, and the box is
    held by this installation only once they are here.

    :raises DeployError: see `edge.deploy.install.install`, and `connected`.
    """
    with ExitStack() as stack:
        with refused(root):
            remote = connected(reference, settings, reuse=releases_of(root), on_progress=on_progress)
            archive = stack.enter_context(remote)
        precheck(archive, root, options, host=host)
        with refused(root):
            archive.fetch(root)
        return install(archive, root, options, host=host), archive.done()


def releases_of(root: Path) -> list[Path]:
    """The folders of the releases of a box."""
    return sorted(path for path in (root / RELEASES).glob("*") if path.is_dir())


def _local(reuse: Iterable[Path], stack: ExitStack) -> dict[str, Bytes]:
    """The files of archives and folders by their sha256; whether they still have it is seen when they are wanted."""
    found: dict[str, Bytes] = {}
    for path in reuse:
        with contextlib.suppress(EdgeError):
            table, _, read = stack.enter_context(opened(path))
            for entry in table.files:
                found.setdefault(entry.sha256, _reader(read, entry))
    return found


def _reader(read: archives.Source, entry: Entry) -> Bytes:
    return lambda: read(entry)


def _is_whole(entry: Entry, source: Bytes) -> bool:
    """Whether a file on this machine is what its table says; a damaged one is fetched."""
    seen, size = hashlib.sha256(), 0
    try:
        for data in source():
            seen.update(data)
            size += len(data)
    except (EdgeError, OSError):
        return False
    return (size, seen.hexdigest()) == (entry.bytes, entry.sha256)


def _slice(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(offset)
        while size and (data := stream.read(min(size, _CHUNK))):
            size -= len(data)
            yield data


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above, that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
