"""The delta of an index as a file: signed and checked as an archive is, and made and applied by the commands."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edge.cli.bundle import bundle
from edge.cli.index import index
from edge.deploy import delta
from edge.deploy.archive import Archive
from edge.deploy.delta import Options, apply, pack
from edge.deploy.disk import Disk
from edge.deploy.pack import add_signature
from edge.deploy.releases import locked
from edge.deploy.signatures import seconds_of
from edge.deploy.table import DELTA
from edge.errors import ArchiveError, DeployError, EdgeError, StoreMismatch, TrustError, UsageError
from edge.store.chunks import Store
from edge.store.contents import state_of
from tests.edge.deploy.made import DAY, Shop
from tests.edge.ingest.indexes import answers, open_index, put


class Indexes:
    """Two versions of an index; the box of the shop has the first."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.old, self.new = shop, shop.folder / "old.db", shop.folder / "new.db"
        self.box, self.file = shop.root / "index.db", shop.folder / "x.delta"
        with open_index(self.old) as store:
            for number in range(12):
                put(store, f"/d/{number}.txt", f"document {number} as it was. " * 8)
        for copy in (self.new, self.box):
            shutil.copy(self.old, copy)
        with open_index(self.new) as store:
            put(store, "/d/3.txt", "document 3 in its second version. " * 9)
            put(store, "/d/new.txt", "a new document. " * 5)
            store.remove(["/d/5.txt"])
        with Store.open(self.old) as before, Store.open(self.new) as after:
            self.head = pack(before, after, self.file)

    def sign(self, key: Path | None = None) -> None:
        add_signature(self.file, key or self.shop.key, 1, seconds_of("2026-11-23T10:00:00Z"))

    def apply(self, **options: object):  # type: ignore[no-untyped-def]
        with Store.open(self.box) as store:
            return apply(self.file, store, self.shop.root, Options(**options))  # type: ignore[arg-type]

    @property
    def is_untouched(self) -> bool:
        with Store.open(self.box) as store, Store.open(self.old) as old:
            return state_of(store) == state_of(old) and answers(store) == answers(old)


@pytest.fixture
def made(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Indexes]:
    monkeypatch.setattr("edge.deploy.delta.time.time", lambda: seconds_of("2026-11-23T12:00:00Z"))
    yield Indexes(shop)


def test_signed_applied_and_known_again(made: Indexes) -> None:
    made.sign()
    done = made.apply()
    assert (done.applied.added, done.applied.replaced, done.applied.removed) == (1, 1, 1)
    assert done.verified is not None and done.verified.name == "shop"
    with Store.open(made.box) as box, Store.open(made.new) as new:
        assert answers(box) == answers(new)
    assert made.apply().applied.was_applied


def test_the_same_input_gives_the_same_bytes_and_they_are_few(made: Indexes) -> None:
    first = made.file.read_bytes()
    with Store.open(made.old) as before, Store.open(made.new) as after:
        pack(before, after, made.file)
    assert made.file.read_bytes() == first
    assert len(first) < made.new.stat().st_size / 10
    with Archive.open(made.file) as archive:
        archive.verify()
        assert tuple(entry.path for entry in archive.table.files) == DELTA


def test_whom_nobody_trusts_is_refused(made: Indexes, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="it is not signed"):
        made.apply()
    from edge.deploy.keys import generate

    generate(tmp_path / "stranger", "stranger", seconds_of("2026-11-23T09:00:00Z") - DAY)
    made.sign(tmp_path / "stranger")
    with pytest.raises(TrustError, match="not in the trust file"):
        made.apply()
    assert made.is_untouched
    done = made.apply(allow_unsigned=True)
    assert (done.verified, done.applied.added) == (None, 1)
    assert "nobody vouches" in done.notes[0]


def test_damage_anywhere_is_found_before_anything_is_changed(made: Indexes) -> None:
    made.sign()
    data, rng = made.file.read_bytes(), random.Random(7)
    cases = [(at, bytes(data[:at])) for at in (0, 100, len(data) // 2, len(data) - 1)]
    for at in sorted(rng.sample(range(len(data)), 40)):
        cases.append((at, data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]))
    behind_signatures = data.index(b"changes.z\0")
    for at, case in cases:
        made.file.write_bytes(case)
        with pytest.raises(EdgeError):
            made.apply()
        if at >= behind_signatures:
            with pytest.raises(EdgeError):
                made.apply(allow_unsigned=True)
    assert made.is_untouched
    made.file.write_bytes(data)
    assert not made.apply().applied.was_applied


def test_a_bundle_is_no_delta_and_a_delta_no_bundle(made: Indexes) -> None:
    made.sign()
    with pytest.raises(DeployError, match="`edge index apply` takes it"):
        made.shop.install(made.file)
    made.file = made.shop.archive(1)
    with pytest.raises(ArchiveError, match="`edge deploy install` takes it"):
        made.apply()
    assert made.is_untouched


def test_a_newer_schema_is_said_to_be_one(made: Indexes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta.deltas, "SCHEMA", 0)
    with pytest.raises(ArchiveError, match="newer schema 1"):
        made.apply(allow_unsigned=True)


def test_not_while_something_is_installed(made: Indexes) -> None:
    made.sign()
    with locked(made.shop.root, Disk()), pytest.raises(DeployError, match="another installation"):
        made.apply()
    assert made.is_untouched


def run(command: click.Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)


def test_as_a_person_uses_it(made: Indexes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("EDGE_HOME", str(made.shop.root))
    assert "keep it off" in run(bundle, "keygen", tmp_path / "mine").stdout
    shutil.copy(tmp_path / "mine.trust.yaml", made.shop.root / "trust.yaml")
    told = run(index, "delta", made.old, made.new, "-o", made.file).stdout
    assert "1 documents added, 1 replaced, 1 removed" in told
    assert "`edge bundle sign` is next" in told
    assert "release 4" in run(bundle, "sign", made.file, "--key", tmp_path / "mine", "--release", "4").stdout
    again = tmp_path / "again.delta"
    told = run(index, "delta", made.old, made.new, "-o", again, "--key", tmp_path / "mine", "--release", "4", "--json")
    assert json.loads(told.stdout)["signed"]["release"] == 4
    assert "the delta of an index" in run(bundle, "verify", again).stdout
    assert "1 replaced" in run(index, "apply", made.file).stdout
    assert "has these changes already" in run(index, "apply", again).stdout
    assert json.loads(run(index, "apply", again, "--json").stdout)["was_applied"] is True
    with pytest.raises(StoreMismatch, match="nothing was changed"):
        run(index, "apply", again, "--index", _emptied(made.old, tmp_path))
    with pytest.raises(UsageError, match="nothing to send"):
        run(index, "delta", made.old, made.old, "-o", tmp_path / "none.delta")
    with pytest.raises(UsageError, match="say --key too"):
        run(index, "delta", made.old, made.new, "-o", tmp_path / "none.delta", "--release", "4")
    assert not (tmp_path / "none.delta").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def _emptied(old: Path, folder: Path) -> Path:
    shutil.copy(old, folder / "empty.db")
    with open_index(folder / "empty.db") as store:
        store.remove(list(store.known()))
    return folder / "empty.db"
