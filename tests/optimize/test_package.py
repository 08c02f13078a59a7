"""The bundle's directory: the same parts give the same bytes, and it is there whole, or the old one is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from edge import bundle
from edge.bundle import MANIFEST, SIDECAR, Manifest
from edge.config import load
from edge.errors import BuildError
from optimize import package
from optimize.package import Part, notices, part_of, write_bundle

BASE = bundle.BaseModel("org/m", "a local folder", "0" * 64, "Apache-2.0")
MANIFEST_OF_TEST = Manifest(
    schema=bundle.SCHEMA, name="n", version="1", target="cpu", licence="Apache-2.0", recipe="r", recipe_digest="1" * 64,
    tools={"a": "1"},
    model=bundle.ModelSection("model", BASE, "int8", {}, 256, bundle.KvCache("float32", 8), "model/t", (2,)),
    embedder=bundle.EmbedderSection("embedder", BASE, 4, "mean", 8, "", "", "f" * 64),
    memory=bundle.Memory(1, 2, 3), gate={"kl_nats": 0.1},
)  # fmt: skip


NEEDED = {name: part_of(name) for name in ("model/genai_config.json", "embedder/model.onnx", "embedder/tokenizer.json")}


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Part]:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 3_000_000)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "model/weights": part_of(file, sha256),
        "model/t": part_of("template"),
        **NEEDED,
        **notices([("M", "i", "s", "Apache-2.0")]),
    }


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_named_with_hash_and_size(parts: dict[str, Part], tmp_path: Path) -> None:
    digest, written = write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    files = content(tmp_path / "b")
    manifest = load(Manifest, tmp_path / "b" / MANIFEST)
    assert written
    assert hashlib.sha256(files.pop(MANIFEST)).hexdigest() == digest == files.pop(SIDECAR).decode().split()[0]
    assert {path: (entry.sha256, entry.bytes) for path, entry in manifest.files.items()} == {
        path: (hashlib.sha256(data).hexdigest(), len(data)) for path, data in files.items()
    }
    assert "LICENSES/Apache-2.0.txt" in files


def test_same_parts_same_bytes_and_nothing_to_do_twice(parts: dict[str, Part], tmp_path: Path) -> None:
    write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "a")
    write_bundle(MANIFEST_OF_TEST, dict(reversed(parts.items())), tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = (tmp_path / "a" / MANIFEST).stat().st_ino
    assert write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "a")[1] is False
    assert (tmp_path / "a" / MANIFEST).stat().st_ino == before


@pytest.mark.parametrize("exchange", [True, False])
def test_another_bundle_is_replaced_whole(
    parts: dict[str, Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:  # a file system without renameat2
        monkeypatch.setattr(package, "_exchange", lambda one, other: False)
    write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    newer = replace(MANIFEST_OF_TEST, version="2")
    del parts["model/weights"]
    _, written = write_bundle(newer, parts, tmp_path / "b")
    assert written
    assert "model/weights" not in content(tmp_path / "b")
    assert load(Manifest, tmp_path / "b" / MANIFEST).version == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "weights"], "nothing is left beside it"


def test_damaged_bundle_is_written_again(parts: dict[str, Part], tmp_path: Path) -> None:
    write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    (tmp_path / "b" / "model" / "t").unlink()
    assert write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")[1]
    damaged = tmp_path / "b" / "model" / "t"
    damaged.write_bytes(bytes(byte ^ 1 for byte in damaged.read_bytes()))
    assert write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")[1]
    assert not write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")[1]


def test_what_is_not_of_a_bundle_is_never_deleted(parts: dict[str, Part], tmp_path: Path) -> None:
    write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    (tmp_path / "b" / "thesis.txt").write_text("x")
    with pytest.raises(BuildError, match="not only one"):
        write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    other = tmp_path / "k8s"
    other.mkdir()
    (other / "manifest.yaml").write_text("kind: Pod\n")
    with pytest.raises(BuildError, match="is not a bundle"):
        write_bundle(MANIFEST_OF_TEST, parts, other)
    assert (tmp_path / "b" / "thesis.txt").exists() and (other / "manifest.yaml").exists()


def test_something_else_is_left_alone(parts: dict[str, Part], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    for name in ("home", "home/letter"):
        with pytest.raises(BuildError, match="is not a bundle"):
            write_bundle(MANIFEST_OF_TEST, parts, tmp_path / name)
    assert content(tmp_path / "home") == {"letter": b"dear"}
    (tmp_path / "empty").mkdir()
    assert write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "empty")[1]


def test_part_that_changed_since_its_stage_is_refused(parts: dict[str, Part], tmp_path: Path) -> None:
    write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    before = content(tmp_path / "b")
    (tmp_path / "weights").write_bytes(b"W" * 3_000_000)
    with pytest.raises(BuildError, match="changed after it was built"):
        write_bundle(replace(MANIFEST_OF_TEST, version="2"), parts, tmp_path / "b")
    assert content(tmp_path / "b") == before
    assert not list(tmp_path.glob(".b.*"))


def test_full_disk_keeps_the_old_bundle(
    parts: dict[str, Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(MANIFEST_OF_TEST, parts, tmp_path / "b")
    before = content(tmp_path / "b")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package.os, "fsync", full)
    with pytest.raises(BuildError, match="disk is full"):
        write_bundle(replace(MANIFEST_OF_TEST, version="2"), parts, tmp_path / "b")
    assert content(tmp_path / "b") == before
    assert not list(tmp_path.glob(".b.*"))
