"""From a bundle's folder to an archive, and to a signed one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge import bundle as bundles
from edge import bundle_files
from edge.bundle import Bundle, FileEntry
from edge.config import EdgeConfig, load
from edge.deploy import table as tables
from edge.deploy.archive import Archive, Source, read_pieces, write
from edge.deploy.keys import read_key
from edge.deploy.probe import Probe
from edge.deploy.sbom import sbom
from edge.deploy.signatures import MAX_RELEASE, Signature, Signatures, sign
from edge.deploy.table import BUNDLE, CONFIG, INDEX, PROBE, SBOM, Entry, Table
from edge.errors import DeployError, UsageError
from edge.files import sha256_file


@dataclass(frozen=True)
class Extras:
    """What goes into an archive beside the bundle."""

    index: Path | None = None
    config: Path | None = None
    probe: Path | None = None
    evaluation: tuple[Path, ...] = ()  # files
    licences: tuple[Path, ...] = ()
    architectures: tuple[str, ...] = ()  # as `uname -m` calls them; none: any


@dataclass
class _Content:
    """Where each file's bytes come from."""

    entries: dict[str, Entry] = field(default_factory=dict)
    sources: dict[str, Path | bytes] = field(default_factory=dict)

    def add(self, path: str, source: Path | bytes, known: FileEntry | None = None) -> None:
        if path in self.entries:
            raise UsageError(f"two files would both be {path} in the archive: rename one")
        if isinstance(source, bytes):
            size, sha256 = len(source), hashlib.sha256(source).hexdigest()
        elif known is not None:
            size, sha256 = known.bytes, known.sha256
        else:
            try:
                size, sha256 = source.stat().st_size, sha256_file(source)
            except OSError as error:
                raise UsageError(f"{source}: cannot be read: {error.strerror}") from None
        self.entries[path], self.sources[path] = Entry(path, size, sha256), source

    def read(self, entry: Entry) -> Iterator[bytes]:
        source = self.sources[entry.path]
        return iter((source,)) if isinstance(source, bytes) else read_pieces(source)


def pack(folder: Path, out: Path, extras: Extras | None = None) -> Table:
    """Write the archive of a bundle and what goes with it, unsigned; the same input gives the same bytes.

    :raises BundleError, UsageError: see `gather`.
    :raises ArchiveError: the archive cannot be written.
    """
    table, read = gather(folder, extras)
    write(out, table, Signatures(tables.SCHEMA, tables.digest_of(tables.to_bytes(table))), read)
    return table


def gather(folder: Path, extras: Extras | None = None) -> tuple[Table, Source]:
    """The table of the archive of a bundle and what goes with it, and where its files' bytes come from.

    :raises BundleError: the bundle is not in order: every byte of it is checked.
    :raises UsageError: an extra cannot be read.
    """
    extras = extras or Extras()
    bundle = bundles.verify(folder)
    content = _Content()
    for name in (bundles.MANIFEST, bundles.SIDECAR):
        content.add(f"{BUNDLE}/{name}", (folder / name).read_bytes())
    for name, entry in bundle.manifest.files.items():
        content.add(f"{BUNDLE}/{name}", folder / name, entry)
    content.add(SBOM, sbom(bundle.manifest, bundle.digest))
    _add_extras(content, extras, bundle)
    files = tuple(content.entries[path] for path in sorted(content.entries))
    manifest = bundle.manifest
    table = Table(tables.SCHEMA, manifest.name, manifest.version, bundle.digest, extras.architectures, files)
    return table, content.read


def add_signature(path: Path, key: Path, release: int | None, now: float, out: Path | None = None) -> Signature:
    """Sign an archive; every byte of it is checked first. A signature by the same key is replaced.

    :param release: a number that only grows, in all that is signed for the same boxes; None: the time, in seconds.
    :param now: seconds since 1970.
    :param out: None: in place, by rename.
    :raises ArchiveError: the archive is damaged, or cannot be written.
    :raises TrustError: the key cannot be used.
    """
    private = read_key(key)
    number = int(now) if release is None else release
    if not 0 <= number <= MAX_RELEASE:
        raise UsageError(f"--release {number}: it must be from 0 to {MAX_RELEASE}")
    with Archive.open(path) as archive:
        made = sign(archive.digest, private, number, now)
        others = tuple(one for one in archive.signatures.signatures if one.key != made.key)
        signed = Signatures(archive.signatures.schema, archive.digest, (*others, made))
        write(out or path, archive.table, signed, archive.content)
    return made


def _add_extras(content: _Content, extras: Extras, bundle: Bundle) -> None:
    if extras.config is not None:
        load(EdgeConfig, extras.config)  # one that no box could read is refused here
        content.add(CONFIG, extras.config)
    if extras.probe is not None:
        load(Probe, extras.probe)
        content.add(PROBE, extras.probe)
    if extras.index is not None:
        _check_index(extras.index, bundle)
        content.add(INDEX, extras.index)
    for folder, files in (("evaluation", extras.evaluation), ("licences", extras.licences)):
        for file in files:
            content.add(f"{folder}/{file.name}", file)


def _check_index(path: Path, bundle: Bundle) -> None:
    from edge.store.chunks import Store

    if path.with_name(f"{path.name}-wal").exists():
        raise DeployError(f"{path}: it is in use, or was not closed: end what uses it, or run `edge index compact`")
    with Store.open(path) as store:
        embedder = store.identity.embedder
    if embedder != bundle.manifest.embedder.fingerprint:
        raise DeployError(f"{path}: made with another embedder than this bundle's: run `edge index rebuild` first")


def files_of(path: Path) -> tuple[Bundle | Table, dict[str, FileEntry]]:
    """The files of an archive or of a bundle's folder, by their path in an archive.

    :raises ArchiveError: it is neither.
    """
    if path.is_dir():
        bundle = bundles.load(path)
        files = {f"{BUNDLE}/{name}": entry for name, entry in bundle.manifest.files.items()}
        for name in (bundles.MANIFEST, bundles.SIDECAR):
            size = bundle_files.size(path, name)
            files[f"{BUNDLE}/{name}"] = FileEntry(bundle_files.sha256(path, name), size)
        return bundle, files
    with Archive.open(path) as archive:
        return archive.table, {entry.path: FileEntry(entry.sha256, entry.bytes) for entry in archive.table.files}
