from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge import machine


def test_cores_are_those_of_the_affinity(tmp_path: Path) -> None:
    assert machine.cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", 64)])
def test_a_quota_of_cgroup_v2_cuts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(machine, "own_cgroups", lambda: [("", "/a/b")])
    assert machine.cores(tmp_path) == expected


def test_the_tightest_quota_on_the_way_up_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "cpu" / "a" / "b"
    inner.mkdir(parents=True)
    for folder, quota in ((inner, "-1"), (inner.parent, "300000")):
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text("100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(machine, "own_cgroups", lambda: [("cpu,cpuacct", "/a/b")])
    assert machine.cores(tmp_path) == 3


def test_peak_memory_is_this_process_s_own() -> None:
    block = bytearray(400 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    program = "from edge.machine import rss_peak_bytes; print(rss_peak_bytes())"
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert 5 * 2**20 < child < 100 * 2**20  # not the parent's, which getrusage would have given
    assert machine.rss_peak_bytes() > len(block)


def test_versions_are_those_of_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxruntime-genai", "PyYAML", "numpy"):
        assert machine.installed_version(package) == importlib.metadata.version(package)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        machine.installed_version("no-such-package")
