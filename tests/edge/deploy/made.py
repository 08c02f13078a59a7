"""What the tests of edge.deploy share: tiny archives, a made-up machine, and a disk that records, fails or forgets."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edge.bundle import Bundle, Manifest
from edge.deploy import table as tables
from edge.deploy.archive import Archive, _pieces
from edge.deploy.disk import Disk
from edge.deploy.host import Smoke
from edge.deploy.install import Installed, Options, install
from edge.deploy.keys import generate, read_key
from edge.deploy.links import CURRENT, PREVIOUS, RELEASES, release_of, served, target_of
from edge.deploy.pack import Extras, add_signature, pack
from edge.deploy.probe import Probe
from edge.deploy.releases import LOCK, releases, verify_release
from edge.deploy.signatures import Signatures, seconds_of, sign
from edge.deploy.table import Entry, Table
from tests.fakes import manifest_of, write_bundle, write_seal

NOW = seconds_of("2026-11-23T10:00:00Z")
DAY = 86400.0


@dataclass
class FakeHost:
    """A machine on which every bundle runs, but where a test says otherwise."""

    machine: str = "x86_64"
    targets: tuple[str, ...] = ("cpu",)
    clock: float = NOW
    free: int = 2**40
    too_large: Exception | None = None
    fails: Exception | None = None  # what the trial of a bundle raises
    tried: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def free_bytes(self, path: Path) -> int:
        return self.free

    def prepared_bytes(self, root: Path, manifest: Manifest, digest: str) -> int:
        return 0

    def admit(self, manifest: Manifest, digest: str, model_config: bytes) -> None:
        assert model_config == b"{}"
        if self.too_large is not None:
            raise self.too_large

    def smoke(self, bundle: Bundle, probe: Probe, folder: Path) -> Smoke:
        assert folder.name.endswith(".partial"), "it is tried out before it has a name"
        if self.fails is not None:
            raise self.fails
        self.tried.append(bundle.manifest.version)
        return Smoke(True, 0.1, (0.1,), 2**20)

    def has_prepared(self, digest: str) -> bool:
        return False

    def forget(self, digest: str) -> None:
        self.forgotten.append(digest)

    def index_note(self, index: Path, manifest: Manifest) -> str | None:
        return None


class Shop:
    """Signs and packs; one key, and a box that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "box"
        self.key = folder / "key"
        self.trusted, trust = generate(self.key, "shop", NOW - DAY, days=100)
        self.root.mkdir()
        shutil.copy(trust, self.root / "trust.yaml")

    def bundle(self, version: int) -> Path:
        """A tiny bundle, the same for the same version."""
        folder = self.folder / f"bundle{version}"
        if not folder.exists():
            write_bundle(folder)
            (folder / "NOTICE.md").write_text(f"version {version}\n")
            write_seal(folder, dataclasses.replace(manifest_of(folder), version=f"{version}.0.0"))
        return folder

    def unsigned(self, version: int, extras: Extras | None = None) -> Path:
        out = self.folder / f"{version}.edge"
        pack(self.bundle(version), out, extras)
        return out

    def archive(
        self, version: int, *, release: int | None = None, now: float = NOW, extras: Extras | None = None
    ) -> Path:
        out = self.unsigned(version, extras)
        add_signature(out, self.key, version if release is None else release, now)
        return out

    def install(
        self, path: Path, *, host: FakeHost | None = None, disk: Disk | None = None, **options: object
    ) -> Installed:
        return install(path, self.root, Options(**options), host=host or FakeHost(), disk=disk)  # type: ignore[arg-type]

    def forge(self, files: dict[str, bytes], change: Callable[[Table], Table] = lambda table: table) -> Path:
        """An archive of any files, with a table that says of them what a test wants, well signed: checks that a
        signature must not replace are seen alone. It can be written though `edge.deploy` would not."""
        entries = tuple(Entry(path, len(data), _sha(data)) for path, data in sorted(files.items()))
        manifest = files.get("bundle/manifest.yaml", b"")
        table = change(Table(tables.SCHEMA, "fake", "1.0.0", _sha(manifest), (), entries))
        data = tables.to_bytes(table)
        return self.seal(data, table, files)

    def seal(self, data: bytes, table: Table, files: dict[str, bytes]) -> Path:
        """An archive with these bytes as its table."""
        made = sign(tables.digest_of(data), read_key(self.key), 99, NOW)
        signatures = Signatures(1, tables.digest_of(data), (made,)).to_bytes()
        out = self.folder / "forged.edge"
        with out.open("wb") as stream:
            for piece in _pieces(data, signatures, table):
                stream.write(files[piece.path] if isinstance(piece, Entry) else piece)
        return out

    def files(self, version: int) -> dict[str, bytes]:
        """What a good archive holds."""
        with Archive.open(self.unsigned(version)) as archive:
            return {entry.path: archive.read(entry.path) for entry in archive.table.files}


def _sha(data: bytes) -> str:
    return tables.digest_of(data)


def snapshot(root: Path) -> dict[str, bytes | str]:
    """Every file's bytes and every link's target; the lock is no content."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and name != LOCK:
            found[name] = path.read_bytes()
    return found


Operation = tuple[str, Path, Path | str | bytes | None]


class Recorder(Disk):
    """A disk that keeps a log. `fails` is asked before each operation, and may raise."""

    def __init__(self, fails: Callable[[int, str], None] = lambda number, kind: None, *, quick: bool = True) -> None:
        self.log: list[Operation] = []
        self._fails, self._quick, self._count = fails, quick, 0

    def _next(self, kind: str) -> None:
        number, self._count = self._count, self._count + 1
        self._fails(number, kind)

    def mkdir(self, path: Path) -> None:
        self._next("mkdir")
        super().mkdir(path)
        self.log.append(("mkdir", path, None))

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        data = b"".join(pieces)
        try:
            self._next("write")
        except OSError:
            super().write(path, [data[: len(data) // 2]])  # as far as it came
            raise
        super().write(path, [data])
        self.log.append(("write", path, data))

    def sync(self, path: Path) -> None:
        self._next("sync")
        if not self._quick:
            super().sync(path)
        self.log.append(("sync", path, None))

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "a rename between folders is two changes to a file system"
        self._next("rename")
        super().rename(source, target)
        self.log.append(("rename", source, target))

    def symlink(self, path: Path, target: str) -> None:
        self._next("symlink")
        super().symlink(path, target)
        self.log.append(("symlink", path, target))

    def unlink(self, path: Path) -> None:
        self._next("unlink")
        super().unlink(path)
        self.log.append(("unlink", path, None))

    def rmdir(self, path: Path) -> None:
        self._next("rmdir")
        super().rmdir(path)
        self.log.append(("rmdir", path, None))


class _Folder:
    """A folder as a disk sees it: names that are safe, and changes to them that a power cut may take back."""

    def __init__(self) -> None:
        self.safe: dict[str, _Node] = {}
        self.pending: list[dict[str, _Node | None]] = []

    @property
    def now(self) -> dict[str, _Node]:
        return self.after(len(self.pending))

    def after(self, count: int) -> dict[str, _Node]:
        found: dict[str, _Node | None] = dict(self.safe)
        for change in self.pending[:count]:
            found |= change
        return {name: node for name, node in found.items() if node is not None}

    def sync(self) -> None:
        self.safe, self.pending = self.now, []


@dataclass
class _File:
    written: bytes
    safe: bytes = b""


_Node = _Folder | _File | str  # a link is its target


class PowerCut:
    """A model of a file system that is cut off: names are safe once their folder was synced, bytes once their file was.

    Within one folder changes keep their order, as POSIX file systems with a journal have it; folders and files know
    nothing of one another's order.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._top = root, self._read(root)

    def _read(self, folder: Path) -> _Folder:
        found = _Folder()
        for path in folder.iterdir():
            if path.is_symlink():
                found.safe[path.name] = str(path.readlink())
            elif path.is_dir():
                found.safe[path.name] = self._read(path)
            elif path.name != LOCK:
                found.safe[path.name] = _File(path.read_bytes(), path.read_bytes())
        return found

    def do(self, operation: Operation) -> None:
        kind, path, more = operation
        folder, name = self._parent(path), path.name
        if kind == "sync":
            node = self._node(path)
            if isinstance(node, _Folder):
                node.sync()
            elif isinstance(node, _File):
                node.safe = node.written
        elif kind == "rename":
            assert isinstance(more, Path)
            folder.pending.append({name: None, more.name: folder.now[name]})
        elif kind in ("unlink", "rmdir"):
            folder.pending.append({name: None})
        elif kind == "mkdir":
            folder.pending.append({name: _Folder()})
        elif kind == "write":
            assert isinstance(more, bytes)
            folder.pending.append({name: _File(more)})
        else:
            assert isinstance(more, str)
            folder.pending.append({name: more})

    def _node(self, path: Path) -> _Node:
        node: _Node = self._top
        for part in path.relative_to(self._root).parts:
            assert isinstance(node, _Folder)
            node = node.now[part]
        return node

    def _parent(self, path: Path) -> _Folder:
        node = self._node(path.parent) if path != self._root else self._top
        assert isinstance(node, _Folder)
        return node

    def leave(self, out: Path, how: str, rng: random.Random) -> None:
        """Write what a cut now would leave: `lost` nothing unsynced, `kept` all of it (kill -9), `names` the names but
        no bytes, `mixed` anything between."""
        self._write(self._top, out, how, rng)

    def _write(self, folder: _Folder, out: Path, how: str, rng: random.Random) -> None:
        out.mkdir(exist_ok=True)
        count = {"lost": 0, "kept": len(folder.pending), "names": len(folder.pending)}.get(how)
        names = folder.after(rng.randint(0, len(folder.pending)) if count is None else count)
        for name, node in names.items():
            if isinstance(node, _Folder):
                self._write(node, out / name, how, rng)
            elif isinstance(node, str):
                (out / name).symlink_to(node)
            elif how == "kept" or node.safe == node.written:
                (out / name).write_bytes(node.written)
            else:
                some = node.written[: rng.randint(0, len(node.written))] if how == "mixed" else b""
                (out / name).write_bytes(node.safe or some)


def check_box(root: Path, allowed: Iterable[str | None]) -> str | None:
    """The box serves one of these versions ("1.0.0"; None: nothing), whole; so is whatever it could go back to."""
    found = served(root)
    version = None
    if found is not None:
        verify_release(root, found)
        version = version_of(root, found)
    assert version in set(allowed)
    targets = {f"{RELEASES}/{one.name}/bundle" for one in releases(root)} | {target_of(root, PREVIOUS)}
    for target in targets - {found, None}:
        assert target is not None
        verify_release(root, target)
    return version


def version_of(root: Path, target: str) -> str:
    from edge.bundle import load

    return load(root / target).manifest.version


def check_clean(root: Path) -> None:
    """Nothing is left of anything that was interrupted."""
    left = [path.name for path in (*root.iterdir(), *(root / RELEASES).iterdir()) if ".partial" in path.name]
    assert left + [path.name for path in root.iterdir() if path.name.endswith(".new")] == []
    assert release_of(target_of(root, CURRENT)) is not None
