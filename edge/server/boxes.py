"""The box that a daemon starts: where it works, with how much memory, with which settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from edge.bundle import Bundle
from edge.config import EdgeConfig, to_yaml
from edge.memory import cgroup_limit
from edge.server.backend import DAEMON_BYTES, Backend, BoxSettings, ProcessBackend
from edge.server.traces import TRACES_BYTES
from edge.sizes import parse_size

SPARE_BYTES = 320 * 2**20
"""With a smaller memory limit the box works inside the daemon's process: another interpreter takes 12 MiB."""


def backend_of(config: EdgeConfig, settings: BoxSettings, on_end: Callable[[str], None]) -> Backend:
    """The box in a process of its own, which gives all its memory back; where little is there, inside this one."""
    if is_short(config):
        from edge.server.inside import InsideBackend

        return InsideBackend(settings)
    return ProcessBackend(settings, on_end)


def box_settings(config: EdgeConfig, bundle: Bundle, index: Path, documents: Path) -> BoxSettings:
    """What the box is told; `documents` is the folder of those that came over HTTP."""
    budget = config.memory_budget
    beside = 0 if is_short(config) else DAEMON_BYTES
    if config.server.traces is not None:
        beside += TRACES_BYTES
    if budget is not None:  # a limit of the system counts this process by itself
        budget = max(1, parse_size(budget) - beside)
    sessions = config.server.sessions
    engine = dataclasses.replace(
        config.engine,
        sessions=sessions,
        prefix_caches=max(sessions, config.engine.prefix_caches),
        guided=True,
    )
    return BoxSettings(
        bundle=str(bundle.path.absolute()),
        index=str(index),
        config=to_yaml(dataclasses.replace(config, memory_budget=budget, engine=engine)),
        documents=str(documents),
        beside_bytes=beside,
    )


def is_short(config: EdgeConfig) -> bool:
    """Whether memory is too short for two interpreters."""
    budget, limit = config.memory_budget, cgroup_limit()
    sizes = [*([parse_size(budget)] if budget is not None else []), *([limit.bytes] if limit is not None else [])]
    return min(sizes, default=SPARE_BYTES) < SPARE_BYTES
