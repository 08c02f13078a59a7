"""The archive itself: what is written, and that nothing else is read."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.bundle import verify
from edge.deploy import archive as archives
from edge.deploy import table as tables
from edge.deploy.archive import ALIGN_BYTES, LARGE_BYTES, Archive
from edge.deploy.diff import diff
from edge.deploy.pack import Extras, add_signature, pack
from edge.deploy.table import Entry, Table
from edge.deploy.trust import check, read_trust
from edge.deploy.unpack import unpack_to
from edge.errors import ArchiveError, BundleError, ConfigError, EdgeError, UsageError
from tests.edge.deploy.made import NOW, Shop, snapshot
from tests.fakes import manifest_of, write_bundle, write_seal


def accept(path: Path, shop: Shop) -> None:
    """Everything that there is to check of an archive."""
    with Archive.open(path) as archive:
        check(archive, read_trust(shop.root / "trust.yaml"), now=NOW)
        archive.verify()


def test_same_input_same_bytes(shop: Shop, tmp_path: Path) -> None:
    first = shop.unsigned(1).read_bytes()
    copy = tmp_path / "elsewhere"
    shutil.copytree(shop.bundle(1), copy)
    for path in copy.rglob("*"):
        os.utime(path, (5, 5))
        path.chmod(0o700)
    pack(copy, tmp_path / "again.edge")
    assert (tmp_path / "again.edge").read_bytes() == first
    assert shop.unsigned(2).read_bytes() != first


def test_a_tar_that_standard_tools_read(shop: Shop, tmp_path: Path) -> None:
    (shop.bundle(1) / "model" / "large.bin").write_bytes(os.urandom(LARGE_BYTES + 7))
    write_seal(shop.bundle(1), manifest_of(shop.bundle(1)))
    path = shop.archive(1)
    with tarfile.open(path, "r:") as tar:
        members = {member.name: member for member in tar.getmembers()}
        content = {name: tar.extractfile(member).read() for name, member in members.items()}  # type: ignore[union-attr]
    assert content["bundle/model/large.bin"] == (shop.bundle(1) / "model" / "large.bin").read_bytes()
    assert {name[7:]: data for name, data in content.items() if name[:7] == "bundle/"} == snapshot(shop.bundle(1))
    assert {(member.mtime, member.uid, member.mode, member.uname) for member in members.values()} == {(0, 0, 0o644, "")}
    assert members["bundle/model/large.bin"].offset_data % ALIGN_BYTES == 0
    (tmp_path / "out").mkdir()
    if shutil.which("tar"):
        subprocess.run(["tar", "xf", path, "-C", tmp_path / "out"], check=True)
        verify(tmp_path / "out" / "bundle")


@pytest.mark.parametrize("position", range(0, ALIGN_BYTES + 1, 512))
def test_gap_ends_where_the_data_must_begin(position: int) -> None:
    gap = archives._gap(position)
    assert (position + len(gap) + 512) % ALIGN_BYTES == 0
    member = tarfile.TarInfo("x")
    with tarfile.open(fileobj=io.BytesIO(gap + member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))) as tar:
        assert tar.getnames() == ["x"]


def test_unpack_gives_back_what_was_packed(shop: Shop, tmp_path: Path) -> None:
    config, note = tmp_path / "config.yaml", tmp_path / "questions.jsonl"
    config.write_text("threads: 1\n")
    note.write_text("{}\n")
    path = shop.archive(1, extras=Extras(config=config, evaluation=(note,), licences=(config,)))
    unpack_to(path, tmp_path / "out")
    assert verify(tmp_path / "out" / "bundle").manifest == verify(shop.bundle(1)).manifest
    assert (tmp_path / "out" / "config.yaml").read_text() == "threads: 1\n"
    assert (tmp_path / "out" / "evaluation" / "questions.jsonl").read_text() == "{}\n"
    assert (tmp_path / "out" / "licences" / "config.yaml").exists()
    with pytest.raises(UsageError, match="is there already"):
        unpack_to(path, tmp_path / "out")


def test_sbom_names_models_and_tools(shop: Shop) -> None:
    found = json.loads(shop.files(1)["sbom.cdx.json"])
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["version"] == "1.0.0"
    model, embedder, tool = found["components"]
    assert (model["group"], model["name"], embedder["name"]) == ("example", "model", "embedder")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "3" * 64}]
    assert tool["purl"] == "pkg:pypi/onnxruntime@1.31.1"
    assert not {"serialNumber", "timestamp"} & {*found, *found["metadata"]}
    references = {part["bom-ref"] for part in found["components"]}
    assert set(found["dependencies"][0]["dependsOn"]) < references


def test_damaged_bundle_is_not_packed(shop: Shop, tmp_path: Path) -> None:
    (shop.bundle(1) / "NOTICE.md").write_text("versiom 1\n")
    with pytest.raises(BundleError, match=r"NOTICE\.md: damaged or changed"):
        shop.unsigned(1)
    assert not (tmp_path / "1.edge").exists()


def test_extra_that_no_box_could_read_is_not_packed(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("threadz: 1\n")
    with pytest.raises(ConfigError, match="threadz"):
        shop.unsigned(1, Extras(config=tmp_path / "x.yaml"))
    (tmp_path / "x.yaml").write_text("questions: []\n")
    with pytest.raises(ConfigError, match="questions are missing"):
        shop.unsigned(1, Extras(probe=tmp_path / "x.yaml"))


def test_file_that_changes_while_it_is_packed(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.edge"
    monkeypatch.setattr("edge.deploy.pack.read_pieces", lambda path: iter([b"another"]))
    with pytest.raises(ArchiveError, match="changed while it was read"):
        pack(shop.bundle(1), out)
    assert not out.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_signing_leaves_the_rest_as_it_is(shop: Shop) -> None:
    with Archive.open(shop.unsigned(1)) as archive:
        before = archive.digest
    add_signature(shop.folder / "1.edge", shop.key, 1, NOW)
    once = (shop.folder / "1.edge").read_bytes()
    add_signature(shop.folder / "1.edge", shop.key, 1, NOW)
    assert (shop.folder / "1.edge").read_bytes() == once  # Ed25519 is deterministic
    with Archive.open(shop.folder / "1.edge") as archive:
        assert archive.digest == before
        assert [one.release for one in archive.signatures.signatures] == [1]


def test_a_damaged_archive_is_not_signed(shop: Shop) -> None:
    path = shop.unsigned(1)
    data = bytearray(path.read_bytes())
    data[data.index(b"version 1\n")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"NOTICE\.md is damaged"):
        add_signature(path, shop.key, 1, NOW)
    assert path.read_bytes() == bytes(data)


# -- bad input ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(shop: Shop, data: st.DataObject) -> None:
    path = shop.folder / "1.edge"
    good = path.read_bytes() if path.exists() else shop.archive(1).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(bad)
        with pytest.raises(EdgeError):
            accept(path, shop)
    finally:
        path.write_bytes(good)
    accept(path, shop)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_or_lengthened(shop: Shop, data: st.DataObject) -> None:
    path = shop.folder / "1.edge"
    good = path.read_bytes() if path.exists() else shop.archive(1).read_bytes()
    size = data.draw(st.integers(0, len(good) - 1))
    try:
        path.write_bytes(good[:size])
        with pytest.raises(ArchiveError, match=r"cut short|not the archive"):
            Archive.open(path)
        path.write_bytes(good + bytes(1 + size % 1024))
        with pytest.raises(ArchiveError, match="something was added"):
            Archive.open(path)
    finally:
        path.write_bytes(good)


def test_no_archive_there(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"none\.edge: cannot be read: No such file"):
        Archive.open(tmp_path / "none.edge")
    with pytest.raises(ArchiveError, match="cannot be read: Is a directory"):
        Archive.open(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArchiveError, match="not the archive of a bundle"):
        Archive.open(tmp_path / "text")


@pytest.mark.parametrize(
    "name",
    ["../outside", "bundle/../../outside", "/etc/passwd", "bundle//x", "bundle/./x", "bundle/x\n", "bundle\\x", "", ".",
     "bundle", "stranger", "stranger/x", "edge.json", "bundle/ä", "releases/x", "current"],
)  # fmt: skip
def test_name_that_leaves_the_archive(shop: Shop, name: str) -> None:
    path = shop.seal(raw_table(shop.files(1), name), Table(1, "", "", "", (), ()), {})
    with pytest.raises(ArchiveError, match="leaves the archive or may not stand there"):
        Archive.open(path)


def raw_table(files: dict[str, bytes], name: str) -> bytes:
    entries = {path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()}
    entries = dict(sorted({**entries, name: {"bytes": 0, "sha256": "0" * 64}}.items()))
    bundle = entries["bundle/manifest.yaml"]["sha256"]
    plain = {"schema": 1, "name": "a", "version": "1", "bundle": bundle, "architectures": [], "files": entries}
    return (json.dumps(plain, indent=1) + "\n").encode()


def test_table_with_a_doubled_key_or_another_spelling(shop: Shop) -> None:
    good = raw_table(shop.files(1), "config.yaml")
    tables.from_bytes(good, "x")
    doubled = good.replace(b'"name": "a"', b'"name": "b",\n "name": "a"')
    for bad in (
        doubled,
        good.replace(b"\n ", b"\n  "),
        good[:-1],
        good.replace(b'"version"', b'"more": 1,\n "version"'),
    ):
        with pytest.raises(ArchiveError, match="not written as `edge bundle pack` does"):
            tables.from_bytes(bad, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes": -1}, "a size that cannot be"),
        ({"bytes": 1.5}, "a size that cannot be"),
        ({"bytes": True}, "a size that cannot be"),
        ({"bytes": 8**11}, "a size that cannot be"),
        ({"sha256": "0" * 63}, "has no sha256"),
        ({"sha256": 7}, "has no sha256"),
    ],
)
def test_entry_that_makes_no_sense(shop: Shop, change: dict[str, object], message: str) -> None:
    plain = json.loads(raw_table(shop.files(1), "config.yaml"))
    plain["files"]["config.yaml"] |= change
    with pytest.raises(ArchiveError, match=message):
        tables.from_bytes((json.dumps(plain, indent=1) + "\n").encode(), "x")


def test_file_that_is_a_folder_too_and_unsorted_files(shop: Shop) -> None:
    plain = json.loads(raw_table(shop.files(1), "bundle/model"))
    with pytest.raises(ArchiveError, match="bundle/model is both a file and a folder"):
        tables.from_bytes((json.dumps(plain, indent=1) + "\n").encode(), "x")
    plain = json.loads(raw_table(shop.files(1), "config.yaml"))
    plain["files"] = dict(reversed(plain["files"].items()))
    with pytest.raises(ArchiveError, match="not sorted"):
        tables.from_bytes((json.dumps(plain, indent=1) + "\n").encode(), "x")


def test_links_second_entries_and_other_kinds_are_no_part_of_the_format(shop: Shop) -> None:
    """Whatever a tar could say of an entry: the header is what the table makes it, or the archive is refused."""
    good = shop.archive(1).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        notice = next(member for member in tar.getmembers() if member.name == "bundle/NOTICE.md")
    start = notice.offset_data - 512
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.XHDTYPE):
        changed = tarfile.TarInfo(notice.name)
        changed.size, changed.type, changed.linkname = notice.size, kind, "/etc/passwd"
        header = changed.tobuf(tarfile.USTAR_FORMAT)
        write_and_refuse(shop, good[:start] + header + good[start + 512 :], r"damaged or changed near")
    entry = good[start : start + 1024]
    write_and_refuse(shop, good[:start] + entry + good[start:], "something was added")
    write_and_refuse(shop, good[:-1024] + entry + good[-1024:], "something was added")


def test_header_that_lies_about_a_size(shop: Shop) -> None:
    good = shop.archive(1).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        notice = next(member for member in tar.getmembers() if member.name == "bundle/NOTICE.md")
    start = notice.offset_data - 512
    for size in (notice.size - 1, notice.size + 1, 8**11 - 1):
        lying = tarfile.TarInfo(notice.name)
        lying.size = size
        write_and_refuse(
            shop, good[:start] + lying.tobuf(tarfile.USTAR_FORMAT) + good[start + 512 :], "damaged or changed near"
        )


def write_and_refuse(shop: Shop, data: bytes, message: str) -> None:
    path = shop.folder / "bad.edge"
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=message):
        accept(path, shop)


def test_table_that_lies_about_sizes(shop: Shop) -> None:
    files = shop.files(1)
    for by in (-1, 1, 10_000):

        def lie(table: Table, by: int = by) -> Table:
            changed = [dataclasses.replace(one, bytes=one.bytes + by) if one.path == "bundle/NOTICE.md" else one
                       for one in table.files]  # fmt: skip
            return dataclasses.replace(table, files=tuple(changed))

        with pytest.raises(ArchiveError, match=r"NOTICE\.md is damaged|cut short|something was added|near"):
            accept(shop.forge(files, lie), shop)


def test_bombs(shop: Shop) -> None:
    files = shop.files(1)
    many = {f"evaluation/{number:05}": b"" for number in range(tables.MAX_FILES)}
    with pytest.raises(ArchiveError, match="files; an archive holds 1 to 4096"):
        Archive.open(shop.forge(files | many))

    def huge(table: Table) -> Table:
        more = tuple(Entry(f"evaluation/{number}", 8 * 2**30 - 1, "0" * 64) for number in range(9))
        return dataclasses.replace(table, files=tuple(sorted((*table.files, *more), key=lambda one: one.path)))

    zeros = {f"evaluation/{number}": b"" for number in range(9)}
    with pytest.raises(ArchiveError, match="bytes when unpacked; the limit is"):
        Archive.open(shop.forge(files | zeros, huge))
    for name, limit in (("edge.json", tables.MAX_TABLE_BYTES), ("edge.json", 8**11 - 2)):
        (shop.folder / "big.edge").write_bytes(archives.tar_header(name, limit + 1))
        with pytest.raises(ArchiveError, match="not the archive of a bundle"):
            Archive.open(shop.folder / "big.edge")
    with pytest.raises(ArchiveError, match="table of contents is damaged"):
        tables.from_bytes(b"[" * 100_000, "x")
    with pytest.raises(ArchiveError, match="table of contents is damaged"):
        tables.from_bytes(b'{"schema": 1' + b"0" * 5000 + b"}", "x")


def test_newer_schema(shop: Shop) -> None:
    path = shop.seal(b'{"schema": 2, "other": {}}', Table(2, "", "", "", (), ()), {})
    with pytest.raises(ArchiveError, match=r"newer schema 2; this program reads up to schema 1\. Update edge-slm"):
        Archive.open(path)


# -- diff --------------------------------------------------------------------------------------------------------------


def test_diff_says_what_changes(tmp_path: Path) -> None:
    old, new = write_bundle(tmp_path / "old"), write_bundle(tmp_path / "new")
    (new / "NOTICE.md").rename(new / "NOTES.md")
    (new / "model" / "model.onnx.data").write_bytes(b"x" * 1000)
    manifest = manifest_of(new)
    write_seal(new, dataclasses.replace(manifest, gate={"kl_nats": 0.02, "recall": 1, "thresholds": {"kl_nats": 1}}))
    pack(old, tmp_path / "old.edge")
    for before in (old, tmp_path / "old.edge"):
        found = diff(before, new)
        assert found.added == ("bundle/NOTES.md",)
        assert "bundle/NOTICE.md" in found.removed
        assert found.changed == (
            "bundle/manifest.yaml", "bundle/manifest.yaml.sha256", "bundle/model/model.onnx.data",
        )  # fmt: skip
        sizes = sum((new / name).stat().st_size for name in ("manifest.yaml", "manifest.yaml.sha256"))
        assert found.send_bytes == 1000 + sizes  # the renamed file costs nothing
        assert found.gates == {"kl_nats": (0.01, 0.02), "recall": (None, 1)}
