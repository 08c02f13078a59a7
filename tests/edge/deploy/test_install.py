"""Installing, going back, and everything that must not change a box."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.box import default_bundle
from edge.bundle import MANIFEST, SIDECAR, seal
from edge.bundle_targets import TargetEntry
from edge.deploy.host import ThisHost
from edge.deploy.install import Options, install
from edge.deploy.keys import generate
from edge.deploy.links import target_of
from edge.deploy.pack import Extras, add_signature
from edge.deploy.releases import LOCK, prune, read_state, releases, rollback, verify_release
from edge.deploy.table import Entry, Table
from edge.deploy.trust import Revoked, read_trust, write_trust
from edge.errors import ArchiveError, BudgetExceeded, DeployError, EdgeError, EngineError, TrustError
from edge.store.chunks import Store
from tests.edge.deploy.made import DAY, NOW, FakeHost, Recorder, Shop, snapshot, version_of
from tests.fakes import manifest_of, write_bundle, write_seal


def served_version(shop: Shop) -> str:
    target = target_of(shop.root, "current")
    assert target is not None
    verify_release(shop.root, target)
    return version_of(shop.root, target)


def test_install_serve_go_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HOME", str(shop.root))
    host = FakeHost()
    first = shop.install(shop.archive(1), host=host)
    assert (first.previous, first.verified.release if first.verified else None, host.tried) == (None, 1, ["1.0.0"])
    opened = default_bundle()
    second = shop.install(shop.archive(2), host=host)
    assert second.previous == f"releases/{first.name}/bundle"
    assert served_version(shop) == "2.0.0"
    assert default_bundle() == shop.root / "releases" / second.name / "bundle"
    assert opened == shop.root / "releases" / first.name / "bundle"  # a box that is open stays with its bundle
    assert rollback(shop.root) == second.previous
    assert served_version(shop) == "1.0.0"
    assert rollback(shop.root) == f"releases/{second.name}/bundle"
    assert [(one.bundle, one.release, one.is_current, one.is_previous) for one in releases(shop.root)] == [
        ("fake 1.0.0", 1, False, True),
        ("fake 2.0.0", 2, True, False),
    ]
    assert rollback(shop.root, to=first.name[:8]) == second.previous


def test_a_bundle_that_was_copied_by_hand_is_the_previous_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HOME", str(shop.root))
    write_bundle(shop.root / "bundle")
    assert default_bundle() == shop.root / "bundle"
    shop.install(shop.archive(2))
    assert default_bundle() != shop.root / "bundle"
    assert rollback(shop.root) == "bundle"
    assert default_bundle() == shop.root / "bundle"


def test_link_that_leads_nowhere_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HOME", str(shop.root))
    write_bundle(shop.root / "bundle")
    (shop.root / "current").symlink_to("releases/gone/bundle")
    assert default_bundle() == shop.root / "releases" / "gone" / "bundle"  # not silently the old folder


def test_again_is_no_work(shop: Shop) -> None:
    path, host = shop.archive(1), FakeHost()
    shop.install(path, host=host)
    before = snapshot(shop.root)
    assert shop.install(path, host=host).smoke is None
    assert (snapshot(shop.root), host.tried) == (before, ["1.0.0"])


def test_a_damaged_release_is_mended_by_installing_it_again(shop: Shop) -> None:
    path = shop.archive(1)
    name = shop.install(path).name
    (shop.root / "releases" / name / "bundle" / "NOTICE.md").write_text("versiom 1\n")
    with pytest.raises(EdgeError, match="damaged"):
        verify_release(shop.root, f"releases/{name}/bundle")
    assert shop.install(path).name == f"{name}.1"
    assert served_version(shop) == "1.0.0"
    with pytest.raises(DeployError, match=r"the release to go back to cannot be used.*serves release"):
        rollback(shop.root)
    assert served_version(shop) == "1.0.0"


def test_index_and_configuration_are_for_a_box_that_has_none(shop: Shop, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("threads: 1\n")
    shop.install(shop.archive(1, extras=Extras(config=config)))
    assert (shop.root / "config.yaml").read_text() == "threads: 1\n"
    (shop.root / "config.yaml").write_text("threads: 2\n")
    done = shop.install(shop.archive(2, extras=Extras(config=config)))
    assert (shop.root / "config.yaml").read_text() == "threads: 2\n"
    assert "config.yaml was left as it is" in done.notes[0]


def test_old_releases_go_but_never_those_in_use(shop: Shop) -> None:
    names = [shop.install(shop.archive(version), keep=9).name for version in range(1, 6)]
    rollback(shop.root, to=names[1])  # the current one is old, the previous one is the newest
    assert prune(shop.root, Recorder(), keep=1) == [names[0], names[2]]
    assert [one.name for one in releases(shop.root)] == [names[1], names[3], names[4]]
    assert prune(shop.root, Recorder(), keep=0) == [names[3]]
    assert [(one.is_current, one.is_previous) for one in releases(shop.root)] == [(True, False), (False, True)]
    assert read_state(shop.root).installed == (names[1], names[4])
    assert served_version(shop) == "2.0.0"


def test_nothing_to_go_back_to(shop: Shop) -> None:
    with pytest.raises(DeployError, match=r"no previous release.*The box serves no bundle yet"):
        rollback(shop.root)
    shop.install(shop.archive(1))
    with pytest.raises(DeployError, match="no previous release to go back to"):
        rollback(shop.root)
    with pytest.raises(DeployError, match="0 releases have names that begin with 'ffff'"):
        rollback(shop.root, to="ffff")


# -- what is refused: a clear error, and nothing changed ---------------------------------------------------------------


@pytest.fixture
def box(shop: Shop) -> Shop:
    """A box that serves release 5."""
    shop.install(shop.archive(5))
    return shop


Case = Callable[[Shop], tuple[Path, FakeHost, dict[str, object]]]


def simple(make: Callable[[Shop], Path], **host: object) -> Case:
    return lambda shop: (make(shop), FakeHost(**host), {})  # type: ignore[arg-type]


def cut(shop: Shop) -> Path:
    path = shop.archive(6)
    path.write_bytes(path.read_bytes()[:-700])
    return path


def flipped(part: bytes) -> Callable[[Shop], Path]:
    def make(shop: Shop) -> Path:
        path = shop.archive(6)
        data = bytearray(path.read_bytes())
        data[data.rindex(part)] ^= 4
        path.write_bytes(data)
        return path

    return make


def slipped(shop: Shop) -> Path:
    """Signed by a trusted key, and still not let out of its folder."""
    from tests.edge.deploy.test_archive import raw_table

    return shop.seal(raw_table(shop.files(6), "bundle/../../../outside"), Table(1, "", "", "", (), ()), {})


def lying_manifest(shop: Shop) -> Path:
    """The manifest says another size than the table; both are signed."""
    folder = shop.bundle(6)
    manifest = manifest_of(folder)
    files = manifest.files | {"NOTICE.md": dataclasses.replace(manifest.files["NOTICE.md"], bytes=10**9)}
    sealed = seal(dataclasses.replace(manifest, files=files)).files
    return shop.forge(shop.files(6) | {f"bundle/{name}": data for name, data in sealed.items()})


def changed_manifest(**changes: object) -> Callable[[Shop], Path]:
    def make(shop: Shop) -> Path:
        manifest = dataclasses.replace(manifest_of(shop.bundle(6)), **changes)  # type: ignore[arg-type]
        sealed = seal(manifest).files
        return shop.forge(shop.files(6) | {f"bundle/{name}": sealed[name] for name in (MANIFEST, SIDECAR)})

    return make


NPU = TargetEntry(
    name="npu-x", path="npu-60", provider="QNNExecutionProvider", package="onnxruntime-not-there",
    package_version="2.7.0", context_tokens=512, chunk_tokens=64, min_assigned_share=0.9, weights_bytes=1,
)  # fmt: skip


def test_a_bundle_for_an_npu_brings_the_form_for_the_cpu(box: Shop) -> None:
    folder = box.bundle(6)
    (folder / NPU.path).mkdir()
    (folder / NPU.path / "genai_config.json").write_text("{}")
    write_seal(folder, dataclasses.replace(manifest_of(folder), schema=2, target=NPU.name, targets=(NPU,)))
    made = box.install(box.archive(6))
    assert target_of(box.root, "current") == f"releases/{made.name}/bundle"


def bomb(shop: Shop) -> Path:
    def huge(table: Table) -> Table:
        more = tuple(Entry(f"evaluation/{number}", 8 * 2**30 - 1, "0" * 64) for number in range(9))
        return dataclasses.replace(table, files=tuple(sorted((*table.files, *more), key=lambda one: one.path)))

    return shop.forge(shop.files(6) | {f"evaluation/{number}": b"" for number in range(9)}, huge)


def by_stranger(shop: Shop) -> Path:
    key = shop.folder / "stranger"
    generate(key, "stranger", NOW - DAY)
    path = shop.unsigned(6)
    add_signature(path, key, 6, NOW)
    return path


def revoked(shop: Shop) -> Path:
    trust = read_trust(shop.root / "trust.yaml")
    write_trust(shop.root / "trust.yaml", dataclasses.replace(trust, revoked=(Revoked(shop.trusted.id, "stolen"),)))
    return shop.archive(6)


def late(shop: Shop) -> tuple[Path, FakeHost, dict[str, object]]:
    return shop.archive(6), FakeHost(clock=NOW + 200 * DAY), {}


def clock_in_1970(shop: Shop) -> tuple[Path, FakeHost, dict[str, object]]:
    """The key has expired; the clock does not say so, but the box has seen a later signature."""
    state = json.loads((shop.root / "deploy.json").read_text())
    (shop.root / "deploy.json").write_text(json.dumps(state | {"seen": "2027-11-23T10:00:00Z"}))
    return shop.archive(6), FakeHost(clock=60.0), {}


REFUSED: dict[str, tuple[Case, type[EdgeError], str]] = {
    "cut short": (simple(cut), ArchiveError, "cut short"),
    "bit of the table": (simple(flipped(b'"architectures"')), ArchiveError, r"table .* damaged|do not belong together"),
    "bit of a signature": (simple(flipped(b'"signature": "')), ArchiveError, "signatures are damaged"),
    "bit of a signed time": (simple(flipped(b"2026-11-23T10")), EdgeError, "signature"),
    "bit of a header": (simple(flipped(b"bundle/NOTICE.md\0")), ArchiveError, "damaged or changed near"),
    "bit of a file": (simple(flipped(b"version 6\n")), ArchiveError, r"bundle/NOTICE\.md is damaged"),
    "bit of the last file": (simple(flipped(b'"specVersion"')), ArchiveError, r"sbom\.cdx\.json is damaged"),
    "bit of the manifest": (simple(flipped(b"licence: Apache")), ArchiveError, r"manifest\.yaml is damaged"),
    "bit after the last file": (simple(flipped(b"\0")), ArchiveError, "damaged or changed near sbom"),
    "zip-slip": (simple(slipped), ArchiveError, "leaves the archive"),
    "manifest lies about a size": (simple(lying_manifest), ArchiveError, r"do not agree about NOTICE\.md"),
    "bomb": (simple(bomb), ArchiveError, "the limit is"),
    "unsigned": (simple(lambda shop: shop.unsigned(6)), TrustError, "it is not signed"),
    "unknown key": (simple(by_stranger), TrustError, "is not in the trust file"),
    "revoked key": (simple(revoked), TrustError, "is revoked: stolen"),
    "expired key": (late, TrustError, "expired on"),
    "expired key, clock in 1970": (clock_in_1970, TrustError, "expired on"),
    "older release": (simple(lambda shop: shop.archive(4)), TrustError, "has had release 5.*--allow-downgrade"),
    "another of the same number": (simple(lambda shop: shop.archive(6, release=5)), TrustError, "of the same number"),
    "another CPU": (
        simple(lambda shop: shop.archive(6, extras=Extras(architectures=("aarch64", "riscv64")))), DeployError,
        "built for aarch64, riscv64, and this machine is x86_64",
    ),
    "an NPU": (simple(changed_manifest(target="npu-x")), DeployError, "built for the target 'npu-x'"),
    "newer schema of the archive": (
        simple(lambda shop: shop.seal(b'{"schema": 2}', Table(2, "", "", "", (), ()), {})), ArchiveError,
        "newer schema 2.*Update edge-slm",
    ),
    "newer schema of the manifest": (
        simple(lambda shop: shop.forge(shop.files(6) | {"bundle/manifest.yaml": b"schema: 3\n"})), DeployError,
        "newer schema 3.*Update edge-slm",
    ),
    "no space": (simple(lambda shop: shop.archive(6), free=10**6), DeployError, "1.0 MiB free.*are needed: free some"),
    "no memory": (
        simple(lambda shop: shop.archive(6), too_large=BudgetExceeded("the memory budget is too little")), DeployError,
        "the memory budget is too little",
    ),
    "does not load": (
        simple(lambda shop: shop.archive(6), fails=EngineError("the model cannot be loaded")), DeployError,
        "the model cannot be loaded",
    ),
    "answers nonsense": (
        simple(lambda shop: shop.archive(6), fails=DeployError("it gave no answer")), DeployError, "it gave no answer",
    ),
    "no archive": (simple(lambda shop: shop.folder / "none.edge"), ArchiveError, "No such file"),
}  # fmt: skip
STAGED = {"bit of a file", "bit of the last file", "bit of a header", "bit after the last file", "does not load",
          "answers nonsense"}  # fmt: skip
"""Found only while the release is staged; everything else before the first byte is written."""


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_changed(box: Shop, name: str) -> None:
    case, kind, message = REFUSED[name]
    path, host, options = case(box)
    before, disk = snapshot(box.root), Recorder()
    with pytest.raises(kind, match=message) as error:
        box.install(path, host=host, disk=disk, **options)
    assert isinstance(error.value, DeployError)
    assert str(error.value).endswith(f". The box serves release {read_state(box.root).installed[-1][:12]}")
    assert snapshot(box.root) == before
    assert not list(box.root.rglob("*.partial"))
    assert bool(disk.log) == (name in STAGED)
    assert served_version(box) == "5.0.0"
    if name in STAGED:
        assert host.forgotten == [json.loads(path_table(path))["bundle"]]


def path_table(path: Path) -> bytes:
    from edge.deploy.archive import Archive

    with Archive.open(path) as archive:
        return archive.table_bytes


def test_told_otherwise(box: Shop) -> None:
    done = box.install(box.unsigned(6), allow_unsigned=True)
    assert done.verified is None
    assert "nobody vouches for it" in done.notes[0]
    assert (read_state(box.root).release, served_version(box)) == (5, "6.0.0")
    done = box.install(box.archive(4), allow_downgrade=True)
    assert (read_state(box.root).release, served_version(box)) == (5, "4.0.0")  # the guard does not come down with it


def test_unsigned_is_still_checked_for_damage(box: Shop) -> None:
    path = box.unsigned(6)
    data = bytearray(path.read_bytes())
    data[data.index(b'"name": "fake"') + 10] ^= 1  # a part of the table that no hash of a file stands for
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="do not belong together"):
        box.install(path, allow_unsigned=True)


def test_clock_in_1970_keeps_nothing_good_out(box: Shop) -> None:
    box.install(box.archive(6), host=FakeHost(clock=60.0))
    assert (served_version(box), read_state(box.root).seen) == ("6.0.0", "2026-11-23T10:00:00Z")


def test_one_installation_at_a_time(box: Shop) -> None:
    handle = os.open(box.root / LOCK, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    before = snapshot(box.root)
    for work in (lambda: box.install(box.archive(6)), lambda: rollback(box.root)):
        with pytest.raises(DeployError, match="another installation or rollback runs: wait"):
            work()
    assert snapshot(box.root) == before
    os.close(handle)
    box.install(box.archive(6))


def test_a_folder_where_a_link_belongs(box: Shop) -> None:
    (box.root / "previous").mkdir()
    with pytest.raises(DeployError, match=r"previous: not a link.*move it away"):
        box.install(box.archive(6))


def test_state_that_is_damaged_lets_nothing_in(box: Shop) -> None:
    (box.root / "deploy.json").write_text("{")
    with pytest.raises(DeployError, match=r"deploy\.json: cannot be used.*Bring back a copy"):
        box.install(box.archive(6))
    assert served_version(box) == "5.0.0"


def test_leftovers_of_an_interrupted_one_are_removed(box: Shop) -> None:
    partial = box.root / "releases" / f"{'0' * 64}.partial" / "bundle"
    partial.mkdir(parents=True)
    (partial / "file").write_text("half")
    (box.root / ".current.new").symlink_to("nowhere")
    box.install(box.archive(6))
    assert not partial.parent.exists()
    assert not os.path.lexists(box.root / ".current.new")


# -- this machine ------------------------------------------------------------------------------------------------------


def make_index(path: Path, fingerprint: str) -> Path:
    with Store.open(path, create=True, fingerprint=fingerprint, dim=8, chunker="made up"):
        return path


def test_index_in_an_archive(shop: Shop, tmp_path: Path) -> None:
    manifest = manifest_of(shop.bundle(1))
    other = make_index(tmp_path / "other.db", "4" * 64)
    with pytest.raises(DeployError, match="made with another embedder than this bundle's"):
        shop.unsigned(1, Extras(index=other))
    own = make_index(tmp_path / "own.db", manifest.embedder.fingerprint)
    shop.install(shop.archive(1, extras=Extras(index=own)))
    assert (shop.root / "index.db").read_bytes() == own.read_bytes()
    host = ThisHost(shop.root)
    assert host.index_note(shop.root / "index.db", manifest) is None
    assert "run `edge index rebuild`" in str(host.index_note(other, manifest))
    (tmp_path / "bad.db").write_bytes(b"no index" * 1000)
    assert "bad.db" in str(host.index_note(tmp_path / "bad.db", manifest))


def test_a_bundle_that_does_not_load_is_found_by_its_trial(box: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(box.folder / "cache"))
    before = snapshot(box.root)
    host = ThisHost(box.root)
    monkeypatch.setattr(host, "admit", lambda *_: None)  # the tiny bundle has no figures for the ledger
    monkeypatch.setattr(host, "now", lambda: NOW)
    with pytest.raises(DeployError, match="The box serves release"):
        install(box.archive(6), box.root, Options(), host=host)
    assert snapshot(box.root) == before
    assert host.prepared_bytes(box.root, manifest_of(box.bundle(6)), "0" * 64) == 512
