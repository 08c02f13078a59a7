"""What a benchmark was run on; stands inside every result."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import edge
from edge.bundle import Bundle
from edge.machine import cores
from edge.memory import limit

PACKAGES = ("edge-slm", "onnxruntime", "onnxruntime-genai", "sqlite-vec", "apsw", "numpy", "tokenizers")
_CPUS = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")


def environment(bundle: Bundle) -> dict[str, Any]:
    """Processor, limits, kernel, versions, bundle and commit. What cannot be read is null."""
    memory = limit()
    return {
        "cpu": _cpu(),
        "machine": platform.machine(),
        "cores_online": os.cpu_count(),
        "cores_allowed": cores(),
        "governor": _governor(),
        "memory_total_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "memory_limit_bytes": None if memory.source.startswith("MemAvailable") else memory.bytes,
        "memory_available_bytes": memory.bytes,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "bundle": {
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "digest": bundle.digest,
            "precision": bundle.manifest.model.precision,
            "context_tokens": bundle.manifest.model.context_tokens,
            "kv_cache": bundle.manifest.model.kv_cache.dtype,
            "base_sha256": bundle.manifest.model.base.sha256,
        },
        **_commit(Path(edge.__file__).resolve().parents[1]),
        "page_cache": "warm: files were read before they were timed, unless a metric says from_disk",
    }


def conditions() -> dict[str, Any]:
    """What changes while a benchmark runs: load, clock, temperature, throttling. Read before and after."""
    return {
        "load_average_1min": round(os.getloadavg()[0], 2),
        "clock_mhz": _clock_mhz(),
        "temperature_celsius": _temperature(),
        "throttle_count": _throttle_count(),
    }


def _cpu() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware", "Model"):
            return value.strip()
    return platform.machine()


def _governor() -> str | None:
    """The frequency governors of the allowed cores, e.g. "performance"; null where the kernel shows none."""
    found = {_read(_CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor").strip() for core in os.sched_getaffinity(0)}
    return ", ".join(sorted(found - {""})) or None


def _clock_mhz() -> float | None:
    """The mean clock of the allowed cores."""
    clocks = [_number(_CPUS / f"cpu{core}" / "cpufreq" / "scaling_cur_freq") for core in os.sched_getaffinity(0)]
    known = [clock for clock in clocks if clock is not None]
    return round(sum(known) / len(known) / 1000, 1) if known else None


def _temperature() -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    zones = [_number(zone / "temp") for zone in sorted(_THERMAL.glob("thermal_zone*"))]
    return max((zone / 1000 for zone in zones if zone is not None), default=None)


def _throttle_count() -> int | None:
    """How often the allowed cores were slowed down because of heat, since boot."""
    counts = [_number(_CPUS / f"cpu{c}" / "thermal_throttle" / "core_throttle_count") for c in os.sched_getaffinity(0)]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _commit(root: Path) -> dict[str, Any]:
    """The checkout that this code runs from; nulls where it is installed from a package."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != root:
        return {"git_sha": None, "git_dirty": None}
    return {"git_sha": _git(root, "rev-parse", "HEAD"), "git_dirty": bool(_git(root, "status", "--porcelain"))}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_read(path))
    except ValueError:
        return None
