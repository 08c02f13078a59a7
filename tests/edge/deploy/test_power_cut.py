"""Power fails, or the disk does, at any instruction of an installation or a rollback."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from edge.deploy.disk import Disk
from edge.deploy.releases import read_state, rollback
from edge.errors import DeployError
from tests.edge.deploy.made import PowerCut, Recorder, Shop, check_box, check_clean, snapshot

FAULTS = {errno.ENOSPC: "is full", errno.EIO: "fails", errno.EROFS: "read-only"}

Run = Callable[[Shop, Disk], object]


def first(shop: Shop, disk: Disk) -> object:
    return shop.install(shop.archive(3), disk=disk)


def back(shop: Shop, disk: Disk) -> object:
    return rollback(shop.root, disk=disk)


def pruning(shop: Shop, disk: Disk) -> object:
    return shop.install(shop.archive(3), disk=disk, keep=0)


Scenario = tuple[Shop, Run, tuple[str | None, ...]]

SCENARIOS: dict[str, tuple[tuple[int, ...], Run, tuple[str | None, ...]]] = {
    "first": ((), first, (None, "3.0.0")),
    "second": ((1,), first, ("1.0.0", "3.0.0")),
    "pruning": ((1, 2), pruning, ("2.0.0", "3.0.0")),
    "rollback": ((1, 2), back, ("2.0.0", "1.0.0")),
}
"""Versions that are installed before, what is cut off, and what the box may serve after it."""


@pytest.fixture(params=SCENARIOS)
def scenario(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Shop, Run, tuple[str | None, ...]]:
    monkeypatch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)  # the same in a tenth of the time
    before, run, allowed = SCENARIOS[request.param]
    shop = Shop(tmp_path)
    for version in before:
        shop.install(shop.archive(version), disk=Recorder())
    shop.archive(3), shop.archive(4)
    return shop, run, allowed


@pytest.mark.parametrize("how", ["lost", "kept", "names", "mixed"])
def test_what_was_not_synced_is_lost(scenario: Scenario, how: str, tmp_path: Path) -> None:
    shop, run, allowed = scenario
    rng, seen, root = random.Random(7), set(), shop.root
    model, disk = PowerCut(root), Recorder()
    run(shop, disk)
    for number in range(len(disk.log) + 1):
        if number:
            model.do(disk.log[number - 1])
        shop.root = tmp_path / f"cut{number}"
        model.leave(shop.root, how, rng)
        found = check_box(shop.root, allowed)
        seen.add(found)
        if run is not back and found == "3.0.0":
            assert read_state(shop.root).release == 3  # so that nothing older can come after it
        if number % 3 == len(how) % 3:
            next_one(shop)
        shutil.rmtree(shop.root)
    assert seen == set(allowed)


def test_one_operation_fails(scenario: Scenario) -> None:
    shop, run, allowed = scenario
    before = snapshot(shop.root)
    refused = 0
    for point in points(shop, run):
        number = list(FAULTS)[point % len(FAULTS)]

        def fails(position: int, kind: str, point: int = point, number: int = number) -> None:
            if position == point:
                raise OSError(number, os.strerror(number))

        shop.root = fresh(shop, f"fault{point}")
        try:
            run(shop, Recorder(fails))
        except DeployError as error:
            refused += 1
            assert FAULTS[number] in str(error)
            assert "The box serves" in str(error)
            assert snapshot(shop.root) == before
        else:
            check_box(shop.root, allowed[1:])  # it was served already; the rest is said as a note
            next_one(shop)
        shutil.rmtree(shop.root)
    assert refused >= 6


def test_the_disk_fails_for_good(scenario: Scenario) -> None:
    shop, run, allowed = scenario
    for point in points(shop, run):

        def fails(position: int, kind: str, point: int = point) -> None:
            if position >= point:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        shop.root = fresh(shop, f"dead{point}")
        try:
            run(shop, Recorder(fails))
        except DeployError as error:
            assert "The box serves" in str(error)
        check_box(shop.root, allowed)
        if point % 3 == 0:
            next_one(shop)
        shutil.rmtree(shop.root)


def test_interrupted_at_any_point(scenario: Scenario) -> None:
    shop, run, allowed = scenario
    before = snapshot(shop.root)
    for point in points(shop, run):

        def fails(position: int, kind: str, point: int = point) -> None:
            if position == point:
                raise KeyboardInterrupt

        shop.root = fresh(shop, f"stop{point}")
        with pytest.raises(KeyboardInterrupt):
            run(shop, Recorder(fails))
        if check_box(shop.root, allowed) == allowed[0]:
            assert snapshot(shop.root) == before
        shutil.rmtree(shop.root)


def next_one(shop: Shop) -> None:
    """Whatever happened, the next installation succeeds and leaves nothing behind."""
    shop.install(shop.folder / "4.edge", disk=Recorder())
    check_box(shop.root, ["4.0.0"])
    check_clean(shop.root)


def points(shop: Shop, run: Run) -> range:
    """The operations that a run makes when nothing fails; every fourth of those that other scenarios have too."""
    shop.root = fresh(shop, "counted")
    disk = Recorder()
    run(shop, disk)
    shutil.rmtree(shop.root)
    return range(0, len(disk.log), 4 if run is pruning else 1)


def fresh(shop: Shop, name: str) -> Path:
    """A copy of the box as it was at the start."""
    out = shop.folder / name
    shutil.copytree(shop.folder / "box", out, symlinks=True)
    return out


def test_the_model_loses_what_was_not_synced(tmp_path: Path) -> None:
    """The model itself: a file written and renamed without a sync is empty, and without its folder's is not there."""
    (tmp_path / "root").mkdir()
    root, disk = tmp_path / "root", Recorder()
    model = PowerCut(root)
    disk.write(root / "a", [b"new"])
    disk.rename(root / "a", root / "b")
    for operation in disk.log:
        model.do(operation)
    for how, content in {"lost": {}, "names": {"b": b""}, "kept": {"b": b"new"}}.items():
        model.leave(tmp_path / how, how, random.Random(0))
        assert snapshot(tmp_path / how) == content
