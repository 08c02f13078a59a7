"""What this process may use of the machine: cores and memory, as the kernel counts them."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def cores(root: Path = CGROUP_ROOT) -> int:
    """Cores this process may use: its CPU affinity, cut by the cgroup's CPU quota (v2 `cpu.max`, v1 `cfs_quota_us`).

    At least 1. A quota of 1.5 cores counts as 2: one thread would waste half a core.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(root)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _cpu_quota(root: Path) -> float | None:
    """The tightest CPU quota, in cores, on the way from this process's cgroup up to the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else root / "cpu"
        folder = base / path.lstrip("/")
        while True:
            quotas += _folder_quota(folder)
            if folder in (base, folder.parent):
                break
            folder = folder.parent
    return min(quotas, default=None)


def _folder_quota(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return []
    return [int(quota) / int(period)] if quota not in ("max", "-1") else []


def rss_peak_bytes() -> int:
    """The largest resident set this process has had, in bytes (`VmHWM`)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
