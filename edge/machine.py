"""What this process may use of the machine: cores and memory, as the kernel counts them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def cores(root: Path = CGROUP_ROOT) -> int:
    """Cores this process may use: its CPU affinity, cut by the cgroup's CPU quota (v2 `cpu.max`, v1 `cfs_quota_us`).

    At least 1. A quota of 1.5 cores counts as 2: one thread would waste half a core.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = min(_cpu_quotas(root), default=math.inf)
    return max(1, min(allowed, math.ceil(quota)) if quota < math.inf else allowed)


def installed_version(package: str) -> str:
    """A package's installed version, as `importlib.metadata.version` says it, but in a hundredth of the time."""
    name = package.replace("-", "_").lower()
    for folder in sys.path:
        for path in Path(folder).glob("*.dist-info"):
            found, _, version = path.stem.rpartition("-")
            if found.lower() == name:
                return version
    from importlib.metadata import version as recorded

    return recorded(package)


def own_cgroups() -> list[tuple[str, str]]:
    """This process's cgroups as `(controllers, path)`; the controllers are "" for version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    return [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines)]


def rss_peak_bytes() -> int:
    """The largest resident set this process has had, in bytes.

    `VmHWM`, not getrusage's maxrss: that one begins at the size of whoever started this process.
    """
    return status_bytes("VmHWM")


def private_bytes() -> int:
    """Memory of this process that no file backs, in bytes (`RssAnon`): heap and arenas, not mapped weights."""
    return status_bytes("RssAnon")


def status_bytes(key: str, pid: int | str = "self") -> int:
    """A size in bytes from /proc/PID/status, such as `VmRSS`, `VmHWM`, `RssAnon`.

    :raises OSError: there is no such process any more, or this is not Linux.
    """
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no {key}: memory can be measured on Linux only")


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Every CPU quota, in cores, on the way from this process's cgroups up to their roots."""
    for controllers, path in own_cgroups():
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        folder = base / path.lstrip("/")
        for level in (folder, *folder.parents):
            yield from _quota_of(level)
            if level == base:
                break


def _quota_of(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return []
    return [int(quota) / int(period)] if quota not in ("max", "-1") else []
