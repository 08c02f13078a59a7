"""What the kernel says about memory: how much may be used here, and how much a tree of processes uses.

    budget = limit()                          # the tightest cgroup limit, or what is free
    with PeakSampler(os.getpid()) as sampler:
        ...                                   # work, in this process and its children
    print(sampler.peak.private_bytes, sampler.peak.file_bytes)

Sources: proc(5) for /proc/PID/{stat,status,smaps,smaps_rollup}; the kernel's admin guide, cgroup-v1/memory.rst and
cgroup-v2.rst, for the files of a memory cgroup.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edge.machine import CGROUP_ROOT, own_cgroups, status_bytes

_UNLIMITED = 2**62
"""Version 1 writes "no limit" as the largest multiple of a page below 2**63."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much memory may be used, and who says so."""

    bytes: int
    source: str  # for a person: "memory.limit_in_bytes of cgroup /a/b", "MemAvailable"


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """One process; bytes."""

    pid: int
    parent: int
    name: str  # what it was started as, for a person
    rss_bytes: int
    private_bytes: int  # no file backs it: RssAnon


@dataclass(frozen=True, slots=True)
class TreeMemory:
    """A process with all its descendants at one moment; bytes."""

    rss_bytes: int = 0  # the sum over the processes: what they share counts once for each
    private_bytes: int = 0  # RssAnon, the sum
    file_pss_bytes: int = 0  # of mapped files; a page that n processes of this machine map counts 1/n for each
    file_bytes: int = 0  # of mapped files; a page counts once for the tree, whoever else maps it
    files: dict[str, int] = field(default_factory=dict)  # file_bytes by path
    processes: tuple[ProcessMemory, ...] = ()

    @property
    def bytes(self) -> int:
        """What the tree takes from the machine: private memory, and mapped files once."""
        return self.private_bytes + self.file_bytes


def limit(root: Path = CGROUP_ROOT, meminfo: Path = Path("/proc/meminfo")) -> Limit:
    """The tightest of the memory limits above this process and of what the machine has free.

    What this process and its children hold already is theirs; what others in a cgroup hold and cannot give back is cut
    from its limit (files in its page cache can go).

    :raises OSError: /proc is not readable: this is not Linux.
    """
    own = _own_bytes()
    free = Limit(_available(meminfo) + own, "free memory of this machine, MemAvailable")
    return min([free, *_cgroup_limits(root, own)], key=lambda one: one.bytes)


def cgroup_limit(root: Path = CGROUP_ROOT) -> Limit | None:
    """The tightest memory limit of the cgroups above this process, as in `limit`; None where there is none."""
    return min(_cgroup_limits(root, _own_bytes()), key=lambda one: one.bytes, default=None)


def oom_kills(folder: Path) -> int:
    """How many processes the kernel has killed in a memory cgroup (v1 `memory.oom_control`, v2 `memory.events`).

    :raises OSError: it is no memory cgroup.
    """
    name = "memory.events" if (folder / "memory.events").exists() else "memory.oom_control"
    return _fields(folder / name)["oom_kill"]


def tree_memory(*pids: int) -> TreeMemory:
    """The memory of processes and of all their descendants now; of those that end meanwhile, nothing."""
    processes: list[ProcessMemory] = []
    files: dict[tuple[str, str, str], int] = {}
    pss = 0
    for one, parent in _tree(*pids):
        try:
            private = status_bytes("RssAnon", one)
            process = ProcessMemory(one, parent, _name(one), status_bytes("VmRSS", one), private)
            mapped, process_pss = list(_mappings(one)), _file_pss(one)
        except OSError:  # it has ended, or is a zombie
            continue
        processes.append(process)
        pss += process_pss
        for key, size in mapped:  # the same stretch of a file in two processes: the larger part holds the other
            files[key] = max(files.get(key, 0), size)
    by_path: dict[str, int] = {}
    for (path, _, _), size in files.items():
        by_path[path] = by_path.get(path, 0) + size
    return TreeMemory(
        rss_bytes=sum(process.rss_bytes for process in processes),
        private_bytes=sum(process.private_bytes for process in processes),
        file_pss_bytes=pss,
        file_bytes=sum(by_path.values()),
        files=by_path,
        processes=tuple(processes),
    )


def tree_rss_peak_bytes(pid: int) -> int:
    """The sum of the largest resident sets that each living process of the tree has had: no less than the tree's own
    peak, and more where they peaked at different times.
    """
    total = 0
    for one, _ in _tree(pid):
        try:
            total += status_bytes("VmHWM", one)
        except OSError:
            continue
    return total


def major_faults(pid: int) -> int:
    """Pages that the tree's living processes had to read from disk so far."""
    return sum(int(fields[9]) for fields in (_stat(one) for one, _ in _tree(pid)) if fields)


def release_heap() -> None:
    """Give freed heap back to the system: the C library keeps it otherwise. Does nothing where that is not glibc."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakSampler:
    """Watches processes and their descendants from a thread; keeps their largest `TreeMemory`, and the course of it.

    :param interval_sec: between two looks. Peaks shorter than that can be missed.
    """

    STEP_BYTES = 2**20
    """Mappings are read, which takes milliseconds, only when the resident size has grown by this."""

    def __init__(self, *pids: int, interval_sec: float = 0.02) -> None:
        self._pids, self._interval = pids, interval_sec
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)
        self._looked_at = 0
        self.peak = TreeMemory()
        self.private_peak_bytes = 0
        self.series: list[tuple[float, int, int]] = []
        """Seconds since the start, RssAnon and RSS of the tree in bytes, at every look."""

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._look()
            if self._ended.wait(self._interval):
                return

    def _look(self) -> None:
        private = rss = 0
        for one, _ in _tree(*self._pids):
            try:
                private += status_bytes("RssAnon", one)
                rss += status_bytes("VmRSS", one)
            except OSError:
                continue
        self.private_peak_bytes = max(self.private_peak_bytes, private)
        self.series.append((time.monotonic() - self._started, private, rss))
        if rss > self._looked_at + self.STEP_BYTES:
            now = tree_memory(*self._pids)
            self._looked_at = max(rss, now.rss_bytes)
            if now.bytes > self.peak.bytes:
                self.peak = now


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{meminfo} has no MemAvailable")


def _own_bytes() -> int:
    """Private memory of this process and its descendants."""
    total = 0
    for pid, _ in _tree(os.getpid()):
        try:
            total += status_bytes("RssAnon", pid)
        except OSError:
            continue
    return total


def _cgroup_limits(root: Path, own: int) -> Iterator[Limit]:
    """Every memory limit on the way from this process's cgroups up to their roots, less what others hold in each."""
    for controllers, path in own_cgroups():
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        if not controllers and (root / "unified").is_dir():  # both versions side by side
            base = root / "unified"
        folder = base / path.lstrip("/")
        for level in (folder, *folder.parents):
            yield from _limits_of(level, "/" + str(level.relative_to(base)).removeprefix("."), own)
            if level == base:
                break


def _limits_of(folder: Path, name: str, own: int) -> Iterator[Limit]:
    """memory.high counts too: above it the kernel slows a process down until it gives pages back."""
    try:
        fields = _fields(folder / "memory.stat")
    except (OSError, ValueError):
        return
    others = _held_by_others(fields, own)
    lowest = _UNLIMITED
    for file in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        try:
            text = (folder / file).read_text().strip()
            limit = _UNLIMITED if text == "max" else int(text)
        except (OSError, ValueError):
            continue
        if limit < _UNLIMITED:
            lowest = min(lowest, limit)
            held = f", of which others hold {others // 2**20} MiB" if others >= 2**20 else ""
            yield Limit(max(0, limit - others), f"{file} of cgroup {name}{held}")
    # Limits of version 1 above the part of the hierarchy that a container sees.
    inherited = fields.get("hierarchical_memory_limit", _UNLIMITED)
    if inherited < lowest:
        yield Limit(max(0, inherited - others), f"a memory limit above cgroup {name}")


def _held_by_others(fields: Mapping[str, int], own: int) -> int:
    """Bytes in a cgroup, by its memory.stat, that cannot be reclaimed, less the `own`."""
    if "anon" in fields:
        held = fields["anon"] + fields.get("shmem", 0)
    else:
        held = fields.get("total_rss", 0) + fields.get("total_shmem", 0)
    return max(0, held - own)


def _fields(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


def _tree(*roots: int) -> list[tuple[int, int]]:
    """(pid, parent) of the roots and their descendants, each once, parents first."""
    parents: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  50 times a second: names are enough
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)] = int(fields[1])
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = {root: parents[root] for root in roots if root in parents}
    queue = list(found)
    for pid in queue:
        for child in children.get(pid, ()):
            if child not in found:
                found[child] = pid
                queue.append(child)
    return list(found.items())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, from the state on; empty where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123
            return stream.read().rpartition(")")[2].split()
    except OSError:
        return []


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return Path(words[0]).name


def _file_pss(pid: int) -> int:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        key, _, rest = line.partition(":")
        fields[key] = int(rest.split()[0]) * 1024
    if "Pss_File" in fields:  # since Linux 5.3
        return fields["Pss_File"] + fields.get("Pss_Shmem", 0)
    return max(0, fields["Pss"] - fields["Anonymous"])


def _mappings(pid: int) -> Iterator[tuple[tuple[str, str, str], int]]:
    """(path, inode, offset and length) of each mapped stretch of a file, with its resident bytes."""
    key, rss = None, 0
    for line in _smaps(pid):
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            start, _, end = words[0].partition("-")
            named = len(words) > 5 and words[4] != "0"
            key = (words[5], words[4], f"{words[2]}+{int(end, 16) - int(start, 16):x}") if named else None
        elif key and words[0] == "Rss:":
            rss = int(words[1]) * 1024
        elif key and words[0] == "Anonymous:" and rss > 0:  # pages of a private mapping that were written to are heap
            yield key, rss - int(words[1]) * 1024


def _smaps(pid: int) -> Iterable[str]:
    return Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
