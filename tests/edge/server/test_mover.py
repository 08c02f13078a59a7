"""Making the index of a waiting release, slice by slice: what is told, what fails, and when nothing is to be done."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.server import mover
from edge.server.mover import Mover

RELEASE = f"releases/{'a' * 64}/bundle"


class Slices:
    """Stands for `Documents`: answers one job after the other with what it was given."""

    def __init__(self, root: Path, *reports: dict[str, Any]) -> None:
        self.root, self.reports, self.jobs = root, list(reports), list[dict[str, Any]]()

    async def run(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        report = self.reports.pop(0)
        if "served" in report:
            (self.root / "next").unlink()
        return report


def moved(root: Path, slices: Slices, *, is_short: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """Let it work until it has nothing to do; the events."""
    told: list[tuple[str, dict[str, Any]]] = []

    async def run() -> None:
        done = asyncio.Event()
        one = Mover(root, slices, lambda event, **what: told.append((event, what)), lambda: is_short, done.set)  # type: ignore[arg-type]
        task = asyncio.create_task(one.work())
        one.look()
        async with asyncio.timeout(10):
            await (done.wait() if slices.reports else asyncio.sleep(0.05))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return told


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "next").symlink_to(RELEASE)
    return tmp_path


GROWS = {"target": RELEASE, "done": 1, "total": 9}
SERVED = {"target": RELEASE, "done": 9, "total": 9, "served": RELEASE, "notes": []}


def test_slices_until_it_is_served(root: Path) -> None:
    slices = Slices(root, GROWS, {**GROWS, "done": 2}, SERVED)
    told = moved(root, slices)
    assert [event for event, _ in told] == ["index_begun", "index_grows", "index_grows", "index_made"]
    assert told[-1][1] == {"release": RELEASE, "documents": 9, "notes": []}
    assert {job["root"] for job in slices.jobs} == {str(root)}


def test_a_slice_that_fails_is_tried_again_and_told_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "_RETRY_SEC", (0.01, 0.02))
    failed = {"error": "StoreFull", "message": "the disk is full"}
    told = moved(root, Slices(root, failed, failed, failed, GROWS, failed, SERVED))
    assert [event for event, _ in told] == ["index_begun", "index_failed", "index_grows", "index_failed", "index_made"]


def test_where_memory_is_short_requests_get_as_long(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0)

    slices = Slices(root, GROWS, SERVED)
    clock = iter(range(0, 100, 7))
    monkeypatch.setattr(mover, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(mover, "asyncio", SimpleNamespace(Event=asyncio.Event, sleep=sleep))
    moved(root, slices, is_short=True)
    assert waited[0] == 7.0


def test_without_a_release_that_waits_nothing_is_done(tmp_path: Path) -> None:
    slices = Slices(tmp_path)
    assert moved(tmp_path, slices) == []
    (tmp_path / "next").mkdir()  # something else has the name
    assert moved(tmp_path, slices) == []
    assert slices.jobs == []
