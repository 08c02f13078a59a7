"""A stage is there whole or not at all, and is built once for what it read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.errors import BuildError
from edge.files import sha256_file
from optimize import disk, stages
from optimize.stages import run_stage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    return tmp_path


class Work:
    """Writes one file and counts its runs."""

    def __init__(self, text: str = "weights") -> None:
        self.text, self.runs = text, 0

    def __call__(self, out: Path) -> None:
        self.runs += 1
        (out / "sub").mkdir()
        (out / "sub" / "file").write_text(self.text)


def test_second_run_builds_nothing() -> None:
    work = Work()
    first, second = run_stage("s", {"a": 1}, work), run_stage("s", {"a": 1}, work)
    assert (work.runs, first.cached, second.cached) == (1, False, True)
    assert (first.path, first.digest, first.files) == (second.path, second.digest, second.files)
    assert set(second.files) == {"sub/file"}


def test_what_it_reads_decides_and_what_it_wrote_is_its_digest() -> None:
    one, other = run_stage("s", {"a": 1}, Work("x")), run_stage("s", {"a": 2}, Work("y"))
    same = run_stage("s", {"a": 3}, Work("x"))
    assert len({one.path, other.path, same.path}) == 3
    assert one.digest == same.digest != other.digest


def test_failed_stage_leaves_nothing_and_is_tried_again(cache: Path) -> None:
    def broken(out: Path) -> None:
        (out / "half").write_text("x")
        raise BuildError("no")

    with pytest.raises(BuildError):
        run_stage("s", {}, broken)
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    work = Work()
    run_stage("s", {}, work)
    assert work.runs == 1


@pytest.mark.parametrize("damage", ["remove", "truncate", "flip", "replace by a folder", "record", "other record"])
def test_damaged_stage_is_built_again(damage: str) -> None:
    work = Work()
    path = run_stage("s", {}, work).path
    file = path / "sub" / "file"
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_text("w")
    elif damage == "flip":
        file.write_text("weighty")  # of the same size
        os.utime(file, ns=(1, 1))  # a clock may be too coarse to tell the two writes apart
    elif damage == "replace by a folder":
        file.unlink()
        file.mkdir()
    elif damage == "record":
        (path / stages.RECORD).write_text("{")
    else:
        (path / stages.RECORD).write_text('{"reads": {}, "files": {"sub/file": "0"}}')
    assert run_stage("s", {}, work).path == path
    assert work.runs == 2
    assert (path / "sub" / "file").read_text() == "weights"


def test_a_file_is_hashed_again_only_where_it_was_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    work, hashed = Work(), []
    path = run_stage("s", {}, work).path

    def counted(file: Path) -> str:
        hashed.append(file.name)
        return sha256_file(file)

    monkeypatch.setattr(stages, "sha256_file", counted)
    assert run_stage("s", {}, work).cached
    assert hashed == []
    os.utime(path / "sub" / "file", ns=(1, 1))  # as a copy or a restored backup would have it
    assert run_stage("s", {}, work).cached
    assert run_stage("s", {}, work).cached
    assert (work.runs, hashed) == (1, ["file"])
    record = json.loads((path / stages.RECORD).read_text())
    del record["seen"]  # as an earlier version wrote it
    (path / stages.RECORD).write_text(json.dumps(record))
    assert run_stage("s", {}, work).cached
    assert (work.runs, hashed) == (1, ["file", "file"])


def test_files_are_on_the_disk_before_the_record_is(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, write = os.fsync, stages.write_atomic

    def synced(handle: int) -> None:
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def written(path: Path, content: str | bytes) -> None:
        order.append(path.name)
        write(path, content)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(stages, "write_atomic", written)
    run_stage("s", {}, Work())
    assert order.index("file") < order.index(stages.RECORD)
    assert order.index("sub") < order.index(stages.RECORD)


KILLED = """
import sys, time
from pathlib import Path
from optimize.stages import run_stage
def work(out):
    (out / "half").write_text("x")
    print("working", flush=True)
    time.sleep(60)
run_stage("s", {}, work)
"""


@pytest.mark.process
def test_killed_stage_is_not_trusted_and_does_not_block(cache: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as stream:
        assert stream.readline() == "working\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert list(cache.glob("stages/*.partial/half")), "the kill came in the middle"
    work, started = Work(), time.monotonic()
    path = run_stage("s", {}, work).path
    assert work.runs == 1
    assert not (path / "half").exists()
    assert not list(cache.glob("stages/*.partial"))
    assert time.monotonic() - started < 5


def test_too_little_space_is_said_before_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    with pytest.raises(BuildError, match=r"MiB free, this step needs 1099511627776 MiB"):
        run_stage("s", {}, work, needed_bytes=2**60)
    assert work.runs == 0


def test_full_disk_is_explained(cache: Path) -> None:
    def full(out: Path) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(BuildError, match="disk is full"):
        run_stage("s", {}, full)


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk.explained(tmp_path):
        raise PermissionError(13, "no")


def test_missing_tool_names_the_extra() -> None:
    with pytest.raises(BuildError, match=r"edge-slm\[optimize\]"):
        stages.tools("no-such-package-at-all")


def test_code_follows_the_source(tmp_path: Path) -> None:
    assert stages.code(disk) == stages.code(disk) != stages.code(stages)
