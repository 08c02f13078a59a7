"""What the kernel says about memory, against processes and cgroup files whose truth is known."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge import memory

MIB = 2**20
MEMINFO = "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n"
HOLD = "b = bytearray({mib} * 2**20); b[::4096] = b'x' * len(b[::4096]); print('held', flush=True); input()"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /sys/fs/cgroup and meminfo; this process holds 10 MiB there."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(memory, "_own_bytes", lambda: 10 * MIB)
    return tmp_path


def in_cgroups(monkeypatch: pytest.MonkeyPatch, *cgroups: tuple[str, str]) -> None:
    monkeypatch.setattr(memory, "own_cgroups", lambda: list(cgroups))


def group(folder: Path, stat: str = "", **files: int | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(stat)
    return folder


def limit_of(system: Path) -> memory.Limit:
    return memory.limit(system / "cgroup", system / "meminfo")


def test_without_cgroups_it_is_what_is_free(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroups(monkeypatch)
    found = limit_of(system)
    assert found.bytes == 4_000_000 * 1024 + 10 * MIB
    assert "MemAvailable" in found.source


@pytest.mark.parametrize("tightest", ["", "a", "a/b"])
def test_the_tightest_limit_of_version_1_on_the_way_up_counts(
    system: Path, monkeypatch: pytest.MonkeyPatch, tightest: str
) -> None:
    in_cgroups(monkeypatch, ("cpu", "/elsewhere"), ("memory", "/a/b"))
    for name in ("", "a", "a/b"):
        size = 300 * MIB if name == tightest else 9223372036854771712
        group(system / "cgroup" / "memory" / name, memory__limit_in_bytes=size)
    found = limit_of(system)
    assert found.bytes == 300 * MIB
    assert found.source == f"memory.limit_in_bytes of cgroup /{tightest}"


def test_limits_of_version_2(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroups(monkeypatch, ("", "/a/b"))
    group(system / "cgroup" / "a" / "b", memory__max="max", memory__high="max")
    group(system / "cgroup" / "a", memory__max=500 * MIB, memory__high=400 * MIB)
    assert limit_of(system) == memory.Limit(400 * MIB, "memory.high of cgroup /a")
    (system / "cgroup" / "a" / "memory.high").write_text("max\n")
    assert limit_of(system) == memory.Limit(500 * MIB, "memory.max of cgroup /a")


def test_version_2_beside_version_1(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroups(monkeypatch, ("memory", "/a"), ("", "/u"))
    group(system / "cgroup" / "memory" / "a", memory__limit_in_bytes=300 * MIB)
    group(system / "cgroup" / "unified" / "u", memory__max=200 * MIB)
    assert limit_of(system).bytes == 200 * MIB


def test_a_container_that_sees_only_its_own_part(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/self/cgroup names the path on the host, which is not there; the limit stands in the root that is."""
    in_cgroups(monkeypatch, ("memory", "/docker/0123"))
    group(system / "cgroup" / "memory", memory__limit_in_bytes=250 * MIB)
    assert limit_of(system).bytes == 250 * MIB


def test_a_limit_above_what_is_seen(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cgroups(monkeypatch, ("memory", "/"))
    group(system / "cgroup" / "memory", f"hierarchical_memory_limit {220 * MIB}\n", memory__limit_in_bytes=2**63 - 4096)
    assert limit_of(system).bytes == 220 * MIB


def test_the_limit_that_stands_in_a_file_is_named_even_when_memory_is_taken_meanwhile(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 repeats a cgroup's own limit in memory.stat; who sets the limit must be able to find it."""
    in_cgroups(monkeypatch, ("memory", "/a"))
    stat = f"hierarchical_memory_limit {256 * MIB}\n"
    group(system / "cgroup" / "memory" / "a", stat, memory__limit_in_bytes=256 * MIB)
    held = iter(range(0, 100 * MIB, MIB // 2))
    read = memory._fields
    monkeypatch.setattr(memory, "_fields", lambda path: read(path) | {"total_rss": 10 * MIB + next(held)})
    assert limit_of(system).source == "memory.limit_in_bytes of cgroup /a"


@pytest.mark.parametrize(
    ("file", "stat"),
    [
        ("memory__limit_in_bytes", f"rss 1\ntotal_rss {100 * MIB}\ntotal_shmem {10 * MIB}\ntotal_cache {900 * MIB}\n"),
        ("memory__max", f"anon {100 * MIB}\nfile {900 * MIB}\nshmem {10 * MIB}\n"),
    ],
)
def test_what_others_hold_is_not_ours(system: Path, monkeypatch: pytest.MonkeyPatch, file: str, stat: str) -> None:
    in_cgroups(monkeypatch, ("memory", "/a") if "limit" in file else ("", "/a"))
    group(system / "cgroup" / ("memory/a" if "limit" in file else "a"), stat, **{file: 300 * MIB})
    found = limit_of(system)
    assert found.bytes == (300 - 110 + 10) * MIB  # page cache can go, and 10 of the rest are this process's own
    assert "others hold 100 MiB" in found.source


@pytest.mark.parametrize("damage", ["limit", "stat"])
def test_cgroup_files_that_cannot_be_read_are_no_limit(
    system: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    in_cgroups(monkeypatch, ("memory", "/a"))
    folder = group(system / "cgroup" / "memory" / "a", memory__limit_in_bytes=300 * MIB)
    if damage == "limit":
        (folder / "memory.limit_in_bytes").write_text("nonsense")
    else:
        (folder / "memory.stat").unlink()
    assert "MemAvailable" in limit_of(system).source


def test_oom_kills_of_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert memory.oom_kills(tmp_path) == 3
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert memory.oom_kills(tmp_path) == 2


@contextmanager
def held(mib: int, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds so much private memory."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + HOLD.format(mib=mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.process
def test_a_tree_is_summed_over_its_processes() -> None:
    grandchild = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {HOLD.format(mib=40)!r}], "
    grandchild += "stdin=subprocess.PIPE, stdout=subprocess.PIPE); c.stdout.readline(); "
    with held(20, grandchild) as process:
        found = memory.tree_memory(process.pid)
        assert found.processes[0].pid == process.pid
        assert found.processes[1].parent == process.pid
        assert len(found.processes) == 2
        assert 60 * MIB < found.private_bytes < 100 * MIB
        own = memory.tree_memory(os.getpid())
        assert {one.pid for one in found.processes} < {one.pid for one in own.processes}
        assert found.processes[0].private_bytes > 20 * MIB
        assert found.processes[1].private_bytes > 40 * MIB
        # the interpreter's file is mapped by both, and counts once
        one = memory._mappings(process.pid)
        assert found.file_bytes < 1.5 * sum(size for _, size in one)
        assert memory.tree_rss_peak_bytes(process.pid) >= found.rss_bytes
    assert memory.tree_memory(process.pid) == memory.TreeMemory()


@pytest.mark.process
def test_mapped_files_are_told_from_private_memory(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(30 * MIB))
    program = (
        f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); "
        "sum(m[::4096]); "
    )
    with held(5, program) as process:
        found = memory.tree_memory(process.pid)
        assert found.files[str(file)] == pytest.approx(30 * MIB, rel=0.01)
        assert found.private_bytes < 25 * MIB
        alone = found.file_pss_bytes
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as shared:
            assert sum(shared[::4096]) == 0
            found = memory.tree_memory(process.pid)
        assert found.file_pss_bytes < alone - 10 * MIB  # a page that this process maps too counts half
        assert found.files[str(file)] == pytest.approx(30 * MIB, rel=0.01)  # but for the tree it counts


@pytest.mark.process
def test_pages_of_a_private_mapping_that_were_written_to_are_not_the_file_s(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(20 * MIB))
    program = (
        f"import mmap; f = open({str(file)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); "
        "sum(m[::4096]); m[:10 * 2**20:4096] = b'x' * 2560; "
    )
    with held(1, program) as process:
        found = memory.tree_memory(process.pid)
    assert found.files[str(file)] == pytest.approx(10 * MIB, rel=0.05)


@pytest.mark.process
def test_the_sampler_keeps_the_peak_of_memory_that_is_given_back() -> None:
    program = "import time; b = bytearray(150 * 2**20); b[::4096] = b'x' * len(b[::4096]); time.sleep(0.3); del b; "
    process = subprocess.Popen(
        [sys.executable, "-c", f"input(); {program} print('done', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    with memory.PeakSampler(process.pid) as sampler:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        after = memory.tree_memory(process.pid)
    process.communicate("\n")
    assert sampler.peak.private_bytes > 150 * MIB
    assert sampler.private_peak_bytes >= sampler.peak.private_bytes - MIB
    assert after.private_bytes < 50 * MIB
    seconds = [at for at, _, _ in sampler.series]
    assert seconds == sorted(seconds) and len(seconds) > 5
    assert max(private for _, private, _ in sampler.series) > 150 * MIB


@pytest.mark.process
def test_processes_that_end_while_they_are_looked_at_do_no_harm() -> None:
    with memory.PeakSampler(os.getpid(), interval_sec=0.001) as sampler:
        for _ in range(30):
            subprocess.run(["true"], check=True)
    assert sampler.peak.private_bytes > 0


def test_a_process_that_never_was() -> None:
    assert memory.tree_memory(2**22 + 1) == memory.TreeMemory()
    with memory.PeakSampler(2**22 + 1) as sampler:
        time.sleep(0.03)
    assert sampler.peak.bytes == 0


def test_major_faults_are_counted() -> None:
    assert memory.major_faults(os.getpid()) >= 0


def test_freed_heap_goes_back() -> None:
    program = (
        "from edge import machine, memory\n"
        "blocks = [bytes(1000) for _ in range(100_000)]; keep = bytes(1000); before = machine.private_bytes()\n"
        "del blocks; memory.release_heap(); print(before - machine.private_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80 * MIB
