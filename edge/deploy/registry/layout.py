"""How an archive lies in a registry: an OCI image manifest, of which every layer follows from the archive's table.

    config    edge.json, the table: its digest is the digest of the release, the one that is signed
    layer 1   edge.sig.json, the signatures
    layers    each file of 1 MiB and more as it is; the smaller ones of each part as one tar, named after the part

A part is a folder of the bundle (model, embedder, adapters, ...), a folder beside it, or a file beside it. So a new
index or adapter is a layer of its own, and a layer's digest changes only with its files. Nothing in a manifest says
what a layer holds: `layers_of` does, and a manifest that does not fit the table is refused.

Source: OCI Image Format Specification 1.1, "Image Manifest" and "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge.deploy.archive import LARGE_BYTES, Source, tar_header
from edge.deploy.registry.client import MANIFEST
from edge.deploy.signatures import MAX_SIGNATURES_BYTES
from edge.deploy.table import BUNDLE, MAX_TABLE_BYTES, SIGNATURES, Entry, Table
from edge.errors import ArchiveError, RegistryError

ARTIFACT = "application/vnd.edge-slm.archive.v1"
TABLE_TYPE = f"{ARTIFACT}.table+json"
SIGNATURES_TYPE = f"{ARTIFACT}.signatures+json"
FILE_TYPE = f"{ARTIFACT}.file"
PART_TYPE = f"{ARTIFACT}.part+tar"
_TITLE = "org.opencontainers.image.title"
_VERSION = "org.opencontainers.image.version"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BLOCK = 512
_END = bytes(2 * _BLOCK)


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of an archive's content."""

    title: str
    files: tuple[Entry, ...]
    is_file: bool  # the file as it is; else a tar

    @property
    def size(self) -> int:
        if self.is_file:
            return self.files[0].bytes
        return sum(_BLOCK + entry.bytes + -entry.bytes % _BLOCK for entry in self.files) + len(_END)

    @property
    def kind(self) -> str:
        return FILE_TYPE if self.is_file else PART_TYPE

    def offsets(self) -> dict[str, int]:
        """Where in the blob each file's content begins."""
        if self.is_file:
            return {self.files[0].path: 0}
        found, position = {}, 0
        for entry in self.files:
            found[entry.path] = position + _BLOCK
            position += _BLOCK + entry.bytes + -entry.bytes % _BLOCK
        return found

    def pieces(self, source: Source) -> Iterator[bytes]:
        """The blob; one set of files gives the same bytes.

        :raises ArchiveError: a name is too long for a tar.
        """
        if self.is_file:
            yield from source(self.files[0])
            return
        for entry in self.files:
            yield tar_header(entry.path, entry.bytes)
            yield from source(entry)
            yield bytes(-entry.bytes % _BLOCK)
        yield _END


@dataclass(frozen=True, slots=True)
class Blob:
    """What a manifest says of a blob."""

    kind: str  # media type
    sha256: str
    size: int
    title: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest of ours."""

    table: Blob
    signatures: Blob
    layers: tuple[Blob, ...]


def layers_of(table: Table) -> tuple[Layer, ...]:
    """How the files of an archive are shared out, in the order of a manifest."""
    small: dict[str, list[Entry]] = {}
    large: list[Layer] = []
    for entry in table.files:
        if entry.bytes >= LARGE_BYTES:
            large.append(Layer(entry.path, (entry,), True))
        else:
            small.setdefault(_part(entry.path), []).append(entry)
    return (*(Layer(f"{part}.tar", tuple(small[part]), False) for part in sorted(small)), *large)


def _part(path: str) -> str:
    parts = path.split("/")
    if len(parts) == 1:
        return path.partition(".")[0]
    return "/".join(parts[:2]) if parts[0] == BUNDLE and len(parts) > 2 else parts[0]


def manifest_bytes(table: Table, blobs: Artifact) -> bytes:
    """The manifest; the same archive gives the same bytes, so it has no time."""
    plain = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": _descriptor(blobs.table, titled=False),
        "layers": [_descriptor(blob) for blob in (blobs.signatures, *blobs.layers)],
        "annotations": {_TITLE: table.name, _VERSION: table.version},
    }
    return json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _descriptor(blob: Blob, *, titled: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": blob.kind, "digest": f"sha256:{blob.sha256}", "size": blob.size}
    return found | ({"annotations": {_TITLE: blob.title}} if titled else {})


def read_manifest(data: bytes, kind: str, name: str) -> Artifact:
    """Read a manifest.

    :param kind: what the registry calls its type; may be empty.
    :raises RegistryError: it is no manifest of an archive, or damaged.
    """
    try:
        plain: Any = json.loads(data)
        kind = str(plain.get("mediaType") or kind)
    except (ValueError, RecursionError, AttributeError):
        raise RegistryError(f"{name}: what the registry sent is no manifest ({kind or 'of no type'})") from None
    if kind in _INDEXES:
        raise RegistryError(f"{name}: an index of several images ({kind}), not a bundle: see to name and tag")
    config = plain.get("config")
    found = plain.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None) or kind
    if kind != MANIFEST or not str(found).startswith(ARTIFACT):
        if re.match(r"application/vnd\.edge-slm\.archive\.v[0-9]+", str(found)):
            raise RegistryError(f"{name}: pushed by a newer edge-slm ({found}): update the one here")
        raise RegistryError(f"{name}: not a bundle but {str(found)[:100]!r}: see to name and tag")
    try:
        table = _blob(config, name)
        signatures, *layers = (_blob(one, name) for one in plain["layers"])
    except (ValueError, KeyError, TypeError):
        raise RegistryError(f"{name}: its manifest is damaged, or was not written by `edge bundle push`") from None
    if table.kind != TABLE_TYPE or signatures.kind != SIGNATURES_TYPE:
        raise RegistryError(f"{name}: its manifest has not what `edge bundle push` puts first: push it again")
    if table.size > MAX_TABLE_BYTES or signatures.size > MAX_SIGNATURES_BYTES:
        raise ArchiveError(f"{name}: its table of contents or its signatures are larger than any can be")
    return Artifact(table, signatures, tuple(layers))


def _blob(plain: Any, name: str) -> Blob:
    """:raises ValueError, KeyError, TypeError: it is no descriptor."""
    match = _DIGEST.fullmatch(plain["digest"])
    size, kind = plain["size"], plain["mediaType"]
    if match is None or type(size) is not int or size < 0 or not isinstance(kind, str):
        raise ValueError(name)
    return Blob(kind, match[1], size, str(plain.get("annotations", {}).get(_TITLE, "")))


def check_layers(table: Table, blobs: tuple[Blob, ...], name: str) -> tuple[Layer, ...]:
    """The layers that a manifest must have, once it is known to have them.

    :raises RegistryError: it has others: it lies, or was written by something else.
    """
    layers = layers_of(table)
    fits = len(layers) == len(blobs) and all(
        (layer.kind, layer.size, layer.title) == (blob.kind, blob.size, blob.title)
        and (not layer.is_file or layer.files[0].sha256 == blob.sha256)
        for layer, blob in zip(layers, blobs, strict=True)
    )
    if not fits:
        raise RegistryError(
            f"{name}: its manifest does not fit its table of contents ({SIGNATURES} and layers as `edge bundle push` "
            "writes them): push it again"
        )
    return layers
