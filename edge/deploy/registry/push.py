"""From an archive, or from a folder, to a registry."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.bundle import MANIFEST
from edge.deploy import table as tables
from edge.deploy.archive import Archive, Source, checked, read_pieces
from edge.deploy.pack import gather
from edge.deploy.registry.client import Client
from edge.deploy.registry.http import Body, Settings
from edge.deploy.registry.layout import (
    SIGNATURES_TYPE,
    TABLE_TYPE,
    Artifact,
    Blob,
    Layer,
    layers_of,
    manifest_bytes,
)
from edge.deploy.registry.reference import Reference
from edge.deploy.signatures import Signatures
from edge.deploy.table import SIGNATURES, TABLE, Entry, Table
from edge.errors import ArchiveError, UsageError

Progress = Callable[[int], None]
"""Told each number of bytes that has moved."""


def silent(_count: int) -> None:
    """A progress that nobody sees."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did."""

    reference: str  # with the tag
    digest: str  # of the manifest, hex: what `pull` may ask for instead of the tag
    archive: str  # of the release
    is_signed: bool
    sent_bytes: int  # of blobs and manifest
    reused_bytes: int  # of blobs that the registry had
    mounted_bytes: int  # of blobs that it took from another repository
    sent_layers: int
    layers: int
    seconds: float


def push(
    source: Path,
    reference: Reference,
    settings: Settings | None = None,
    *,
    mount_from: str | None = None,
    on_progress: Progress = silent,
) -> Pushed:
    """Upload what the registry has not, and give it the tag, which until then names what it named.

    :param source: an archive, the folder of one that was unpacked, or the folder of a bundle (which goes unsigned).
    :param mount_from: a repository of the same registry that may have layers already.
    :raises UsageError: the reference has no tag, or a digest.
    :raises ArchiveError, BundleError: the source is damaged.
    :raises RegistryError: the registry does not take it; the tag was not changed.
    """
    if reference.digest is not None or reference.tag is None:
        raise UsageError(f"{reference}: a push needs a tag and no digest: registry/name:tag")
    started = time.monotonic()
    with opened(source) as (table, signatures, read), Client(reference, settings, pushes=True) as client:
        upload = _Upload(client, mount_from, on_progress)
        archive = tables.digest_of(tables.to_bytes(table))
        layers = tuple(upload.layer(layer, read, source) for layer in layers_of(table))
        first = upload.data(SIGNATURES, SIGNATURES_TYPE, signatures.to_bytes())
        head = upload.data(TABLE, TABLE_TYPE, tables.to_bytes(table))
        manifest = manifest_bytes(table, Artifact(head, first, layers))
        digest = client.put_manifest(manifest)
    return Pushed(
        str(reference), digest, archive, bool(signatures.signatures), upload.sent + len(manifest), upload.reused,
        upload.mounted, upload.layers_sent, len(layers), time.monotonic() - started,
    )  # fmt: skip


class _Upload:
    def __init__(self, client: Client, mount_from: str | None, on_progress: Progress) -> None:
        self._client, self._mount_from, self._on_progress = client, mount_from, on_progress
        self._done: set[str] = set()
        self.sent = self.reused = self.mounted = self.layers_sent = 0

    def layer(self, layer: Layer, read: Source, source: Path) -> Blob:
        def pieces() -> Iterator[bytes]:
            return layer.pieces(lambda entry: checked(entry, read(entry), str(source)))

        digest = layer.files[0].sha256
        if not layer.is_file:
            seen = hashlib.sha256()
            for data in pieces():
                seen.update(data)
            digest = seen.hexdigest()
        blob = Blob(layer.kind, digest, layer.size, layer.title)
        self.layers_sent += self._send(blob, pieces)
        return blob

    def data(self, title: str, kind: str, data: bytes) -> Blob:
        blob = Blob(kind, hashlib.sha256(data).hexdigest(), len(data), title)
        self._send(blob, lambda: iter((data,)))
        return blob

    def _send(self, blob: Blob, pieces: Callable[[], Iterator[bytes]]) -> bool:
        """Have the registry hold a blob; returns whether it had to be sent."""

        def watched() -> Iterator[bytes]:
            for data in pieces():
                yield data
                self._on_progress(len(data))

        if blob.sha256 in self._done:
            return False
        self._done.add(blob.sha256)
        if self._client.has_blob(blob.sha256, blob.size, blob.title):
            self.reused += blob.size
            return False
        if self._client.put_blob(blob.sha256, Body(blob.size, watched), blob.title, self._mount_from):
            self.mounted += blob.size
            return False
        self.sent += blob.size
        return True


@contextmanager
def opened(source: Path) -> Iterator[tuple[Table, Signatures, Source]]:
    """A table, its signatures, and where the files' bytes come from.

    :raises ArchiveError, BundleError: it is neither an archive nor a folder of one, nor a bundle.
    """
    if not source.is_dir():
        with Archive.open(source) as archive:
            yield archive.table, archive.signatures, archive.content
    elif (source / TABLE).is_file():
        yield unpacked(source)
    elif (source / MANIFEST).is_file():
        table, read = gather(source)
        digest = tables.digest_of(tables.to_bytes(table))
        yield table, Signatures(tables.SCHEMA, digest), lambda entry: _read(source, lambda: read(entry))
    else:
        raise ArchiveError(f"{source}: neither an archive that was unpacked ({TABLE}) nor a bundle ({MANIFEST})")


def unpacked(folder: Path) -> tuple[Table, Signatures, Source]:
    """The same of a folder that an archive was unpacked into, a release for example.

    :raises ArchiveError: it is none.
    """
    try:
        data = (folder / TABLE).read_bytes()
        signatures = Signatures.from_bytes((folder / SIGNATURES).read_bytes(), str(folder))
    except OSError as error:
        raise ArchiveError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
    table = tables.from_bytes(data, str(folder))
    if signatures.table != tables.digest_of(data):
        raise ArchiveError(f"{folder}: {TABLE} and {SIGNATURES} do not belong together. {tables.AGAIN}")

    def read(entry: Entry) -> Iterator[bytes]:
        return _read(folder, lambda: read_pieces(folder / entry.path))

    return table, signatures, read


def _read(folder: Path, open_: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    try:
        yield from open_()
    except OSError as error:
        raise ArchiveError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
