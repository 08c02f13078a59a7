from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import bundle
from edge.bundle import MANIFEST, SIDECAR, load, seal, verify
from edge.config import to_plain
from edge.errors import BundleError
from tests.fakes import BUNDLE_FILES, manifest_of, write_bundle, write_seal

ALL_FILES = sorted([*BUNDLE_FILES, MANIFEST, SIDECAR])
on_one_folder = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def reseal(folder: Path, **changes: object) -> None:
    """Change the manifest and sign it again, as somebody would who builds a bundle by hand."""
    changed = dataclasses.replace(manifest_of(folder), **changes)
    text = bundle.to_yaml(changed).encode()
    (folder / MANIFEST).write_bytes(text)
    (folder / SIDECAR).write_text(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")


def test_whole_bundle_loads_and_verifies(whole: Path) -> None:
    loaded = load(whole)
    assert loaded == verify(whole)
    assert loaded.digest == hashlib.sha256((whole / MANIFEST).read_bytes()).hexdigest()
    assert loaded.manifest == manifest_of(whole)
    assert to_plain(loaded.manifest)["files"]["NOTICE.md"] == {
        "sha256": hashlib.sha256(b"fake\n").hexdigest(),
        "bytes": 5,
    }


def test_bundle_may_be_reached_through_a_link(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(whole)
    assert verify(tmp_path / "current").digest == load(whole).digest


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sidecar_is_what_sha256sum_reads(whole: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SIDECAR], cwd=whole, check=True, capture_output=True)


@on_one_folder
@given(data=st.data())
def test_any_flipped_bit_is_found(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(ALL_FILES))
    content = bytearray((whole / name).read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    good = bytes(content)
    content[bit // 8] ^= 1 << bit % 8
    (whole / name).write_bytes(content)
    try:
        with pytest.raises(BundleError) as error:
            verify(whole)
        # a flipped manifest and a flipped sidecar look alike, and the message names both
        assert name in str(error.value)
    finally:
        (whole / name).write_bytes(good)
    verify(whole)


@pytest.mark.parametrize("name", ALL_FILES)
def test_missing_file(whole: Path, name: str) -> None:
    (whole / name).unlink()
    for check in (load, verify):
        with pytest.raises(BundleError, match=f"{name}: missing.*Copy the bundle again"):
            check(whole)


@pytest.mark.parametrize("name", ALL_FILES)
def test_truncated_file_is_found_without_hashing(whole: Path, name: str) -> None:
    (whole / name).write_bytes((whole / name).read_bytes()[:-1])
    with pytest.raises(BundleError, match=name):
        load(whole)


@on_one_folder
@given(
    folder=st.sampled_from(["", "model/", "embedder/", "model/deep/er/"]),
    name=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8),
)
def test_extra_file(whole: Path, folder: str, name: str) -> None:
    extra = whole / folder / f"{name}.extra"
    extra.parent.mkdir(parents=True, exist_ok=True)
    extra.write_bytes(b"x")
    try:
        with pytest.raises(BundleError, match=f"{name}.extra: not in the manifest"):
            verify(whole)
    finally:
        extra.unlink()
        shutil.rmtree(whole / "model" / "deep", ignore_errors=True)
    verify(whole)


def test_empty_folder(whole: Path) -> None:
    (whole / "adapters").mkdir()
    with pytest.raises(BundleError, match="adapters: an empty folder"):
        verify(whole)


@pytest.mark.parametrize("name", list(BUNDLE_FILES))
def test_renamed_file(whole: Path, name: str) -> None:
    (whole / name).rename(whole / f"{name}.bak")
    with pytest.raises(BundleError, match=f"{name}: missing"):
        verify(whole)


@pytest.mark.parametrize("name", ALL_FILES)
def test_link_to_the_very_same_bytes(whole: Path, tmp_path: Path, name: str) -> None:
    (whole / name).rename(tmp_path / "elsewhere")
    (whole / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name}: a symbolic link"):
        load(whole)


def test_link_to_a_folder(whole: Path, tmp_path: Path) -> None:
    (whole / "model").rename(tmp_path / "model")
    (whole / "model").symlink_to(tmp_path / "model")
    with pytest.raises(BundleError, match="model: a symbolic link"):
        load(whole)


def test_extra_link_and_special_file(whole: Path) -> None:
    (whole / "model" / "link").symlink_to("genai_config.json")
    with pytest.raises(BundleError, match="link: a link or a special file"):
        verify(whole)
    (whole / "model" / "link").unlink()
    os.mkfifo(whole / "pipe")
    with pytest.raises(BundleError, match="pipe: a link or a special file"):
        verify(whole)


def test_folder_in_place_of_a_file(whole: Path) -> None:
    (whole / "NOTICE.md").unlink()
    (whole / "NOTICE.md").mkdir()
    with pytest.raises(BundleError, match=r"NOTICE\.md: not a regular file"):
        load(whole)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/../../b", "./a", "a//b", "", ".", "a\nb", MANIFEST])
def test_path_that_leaves_the_bundle(whole: Path, path: str) -> None:
    manifest = manifest_of(whole)
    reseal(whole, files={**manifest.files, path: bundle.FileEntry("0" * 64, 1)})
    with pytest.raises(BundleError, match="leaves the bundle or may not stand there"):
        load(whole)
    with pytest.raises(BundleError, match="leaves the bundle"):
        seal(dataclasses.replace(manifest, embedder=dataclasses.replace(manifest.embedder, path=path)))


@pytest.mark.parametrize(
    "name", ["model/genai_config.json", "model/chat_template.jinja", "embedder/model.onnx", "embedder/tokenizer.json"]
)
def test_manifest_without_a_file_that_every_bundle_has(whole: Path, name: str) -> None:
    manifest = manifest_of(whole)
    files = {path: entry for path, entry in manifest.files.items() if path != name}
    (whole / name).unlink()
    reseal(whole, files=files)
    with pytest.raises(BundleError, match=f"{name} is not among its files"):
        load(whole)


def test_newer_schema_is_named_even_with_unknown_keys(whole: Path) -> None:
    text = (whole / MANIFEST).read_text().replace("schema: 1", "schema: 3\nshards: []")
    (whole / MANIFEST).write_text(text)
    (whole / SIDECAR).write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(BundleError, match=r"newer schema 3; this program reads up to schema 2\. Update edge-slm"):
        load(whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: one", "no schema number"),
        ("schema: true", "no schema number"),
        ("- 1", "no schema number"),
        ("", "no schema number"),
        ("schema: [", "not YAML"),
        ("schema: 2026-99-99", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("schema: 1\nname: x", "version is missing"),
        ("schema: 1\nmodell: x", "unknown key 'modell'"),
    ],
)
def test_manifest_that_is_none(whole: Path, text: str, message: str) -> None:
    (whole / MANIFEST).write_text(text)
    (whole / SIDECAR).write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(BundleError, match=message):
        load(whole)


def test_manifest_in_another_encoding(whole: Path) -> None:
    data = (whole / MANIFEST).read_bytes() + b"\xff"
    (whole / MANIFEST).write_bytes(data)
    (whole / SIDECAR).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(BundleError, match="not UTF-8"):
        load(whole)


def test_no_bundle_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "file"):
        if path.name == "file":
            path.write_text("x")
        with pytest.raises(BundleError, match=f"{path}: no bundle there.*edge optimize run.*--bundle"):
            load(path)


@pytest.mark.parametrize(
    "change",
    [{"pooling": "cls"}, {"max_tokens": 32}, {"query_prefix": ""}, {"document_prefix": "passage: "}],
    ids=lambda change: next(iter(change)),
)
def test_embedder_used_in_another_way_has_another_fingerprint(whole: Path, change: dict[str, object]) -> None:
    reseal(whole, embedder=dataclasses.replace(manifest_of(whole).embedder, **change))
    load(whole)
    with pytest.raises(BundleError, match=r"embedder\.fingerprint is not that of the embedder's files"):
        verify(whole)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_fingerprint_follows_the_files_that_decide_a_vector(whole: Path, name: str) -> None:
    before = manifest_of(whole).embedder.fingerprint
    (whole / "embedder" / "embedder.json").write_text("{}")
    assert manifest_of(whole).embedder.fingerprint == before
    (whole / "embedder" / name).write_bytes(b"another")
    assert manifest_of(whole).embedder.fingerprint != before


def test_seal_is_deterministic(whole: Path) -> None:
    digest = load(whole).digest
    assert write_seal(whole, manifest_of(whole)) == digest


def with_target(folder: Path, **changes: object) -> dict[str, object]:
    """Put the files of a second form of the model into a bundle; what its manifest says of it."""
    (folder / "npu").mkdir()
    (folder / "npu" / "genai_config.json").write_text("{}")
    values: dict[str, object] = {
        "name": "qnn",
        "path": "npu",
        "provider": "QNNExecutionProvider",
        "package": "onnxruntime-qnn",
        "package_version": "2.7.0",
        "context_tokens": 256,
        "chunk_tokens": 16,
        "min_assigned_share": 0.9,
        "weights_bytes": 2,
    }
    entry = bundle.TargetEntry(**(values | changes))  # type: ignore[arg-type]
    return {"schema": bundle.schema_of((entry,)), "targets": (entry,)}


def test_forms_for_accelerators_raise_the_schema_and_come_back_as_they_were(whole: Path) -> None:
    assert "schema: 1\n" in (whole / MANIFEST).read_text() and "targets" not in (whole / MANIFEST).read_text()
    section = with_target(whole, soc_model="60", provider_options={"htp_performance_mode": "burst"})
    write_seal(whole, dataclasses.replace(manifest_of(whole), **section))
    assert "schema: 2\n" in (whole / MANIFEST).read_text()
    assert verify(whole).manifest.targets == section["targets"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "model"}, "two parts have one folder"),
        ({"path": "../npu"}, "leaves the bundle"),
        ({"path": "embedder/npu"}, "embedder/npu/genai_config.json is not among its files"),
    ],
)
def test_form_that_is_not_where_the_manifest_says(whole: Path, changes: dict[str, object], message: str) -> None:
    section = with_target(whole, **changes)
    with pytest.raises(BundleError, match=message):
        seal(dataclasses.replace(manifest_of(whole), **section))


def test_every_key_is_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")
    sections = (bundle.Manifest, bundle.ModelSection, bundle.EmbedderSection, bundle.RerankerSection, bundle.Memory)
    for section in (*sections, bundle.TargetEntry):
        for field in dataclasses.fields(section):
            assert f"| `{field.name}" in text, f"{section.__name__}.{field.name}"
    for section in (bundle.BaseModel, bundle.FileEntry, bundle.KvCache):
        for field in dataclasses.fields(section):
            assert re.search(rf"\b{field.name}\b", text), f"{section.__name__}.{field.name}"
