"""Weights prepared for this CPU: the same logits, and no copy that is half, foreign or wrong is ever used."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edge import bundle
from edge.bundle import Bundle
from edge.engine import prepared
from edge.errors import EngineError

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def loaded(default_bundle: Path) -> Bundle:
    return bundle.load(default_bundle)


@pytest.fixture(scope="module")
def made(loaded: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared.prepare(loaded, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A cache with the prepared copy (its weights by a link), and the copy's folder."""
    folder = tmp_path / made.relative_to(made.parents[2])
    shutil.copytree(made, folder, copy_function=lambda a, b: Path(b).hardlink_to(a))
    return tmp_path, folder


def test_a_copy_is_found_again_and_whole(loaded: Bundle, made: Path) -> None:
    assert prepared.find(loaded, made.parents[2]) == made
    prepared.verify(made)
    assert not list(made.parent.glob(".*"))


def test_no_copy_is_no_error(loaded: Bundle, tmp_path: Path) -> None:
    assert prepared.find(loaded, tmp_path) is None


@pytest.mark.parametrize("damage", ["record", "weights", "graph", "shorter"])
def test_a_copy_that_is_not_whole_is_not_used(loaded: Bundle, copy: tuple[Path, Path], damage: str) -> None:
    cache, folder = copy
    target = folder / {"record": prepared.RECORD, "graph": "model.onnx"}.get(damage, "model.onnx.data")
    if damage == "shorter":
        data = target.read_bytes()
        target.unlink()
        target.write_bytes(data[:-1])
    else:
        target.unlink()
    assert prepared.find(loaded, cache) is None


def test_a_copy_made_elsewhere_is_not_used(loaded: Bundle, copy: tuple[Path, Path]) -> None:
    cache, folder = copy
    record = json.loads((folder / prepared.RECORD).read_text())
    (folder / prepared.RECORD).unlink()
    (folder / prepared.RECORD).write_text(json.dumps(record | {"platform": "another CPU"}))
    assert prepared.find(loaded, cache) is None


def test_another_cpu_has_another_key(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("flags : avx2 fma\n")
    (tmp_path / "b").write_text("flags : fma avx2\n")
    (tmp_path / "c").write_text("flags : avx2 fma avx512_vnni\n")
    a, b, c = (prepared.platform_key(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_flipped_bit_is_found_by_verify(copy: tuple[Path, Path]) -> None:
    _, folder = copy
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"model\.onnx.*edge bundle prepare --again"):
        prepared.verify(folder)


def test_other_logits_are_refused_and_leave_nothing(
    loaded: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(step: str, source: str, *rest: str) -> str:
        if step == "pack":  # what a wrong packing would leave: a model of the right shape with other weights
            (Path(rest[0]) / "model.onnx").write_bytes(b"graph")
            return ""
        return f"digest of {source}"

    monkeypatch.setattr(prepared, "_run", run)
    with pytest.raises(EngineError, match="other logits"):
        prepared.prepare(loaded, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_step_that_fails_says_why(loaded: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: no memory\n")

    monkeypatch.setattr(prepared.subprocess, "run", run)
    with pytest.raises(EngineError, match="no memory"):
        prepared.prepare(loaded, tmp_path)


def test_half_written_copies_and_those_of_old_bundles_are_cleared(
    loaded: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared.folder_of(loaded, tmp_path)
    dead = folder.with_name(f".{folder.name}.999999999.partial")
    busy = folder.with_name(f".{folder.name}.1.partial")  # process 1 lives
    foreign = folder.with_name("another-cpu")
    old = [tmp_path / "prepared" / str(number) / "x" for number in range(5)]
    for path in (dead, busy, foreign, *old):
        path.mkdir(parents=True)
    monkeypatch.setattr(prepared, "_run", lambda *_: "same")
    assert prepared.prepare(loaded, tmp_path) == folder
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, busy.name}
    assert len(list((tmp_path / "prepared").iterdir())) == prepared.KEPT_BUNDLES
