"""A refused installation leaves nothing behind on a box that had none, and the lock holds all the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.deploy.disk import Disk
from edge.deploy.install import Options, install
from edge.deploy.releases import LOCK, STATE, locked
from edge.errors import DeployError, EngineError
from tests.edge.deploy.made import FakeHost, Shop


def test_nothing_is_left_of_an_archive_that_is_none(tmp_path: Path) -> None:
    root, bad = tmp_path / "box", tmp_path / "bad.edge"
    bad.write_bytes(b"nonsense" * 1000)
    for _ in range(2):
        with pytest.raises(DeployError):
            install(bad, root, Options(), host=FakeHost())
        assert not root.exists()
    root.mkdir()
    (root / "config.yaml").write_text("threads: 1\n")
    with pytest.raises(DeployError):
        install(bad, root, Options(), host=FakeHost())
    assert [path.name for path in root.iterdir()] == ["config.yaml"]


def test_nothing_is_left_of_a_bundle_that_does_not_run(shop: Shop) -> None:
    with pytest.raises(DeployError):
        shop.install(shop.archive(1), host=FakeHost(fails=EngineError("no")))
    assert [path.name for path in shop.root.iterdir()] == ["trust.yaml"]


def test_what_was_installed_keeps_its_lock(shop: Shop, tmp_path: Path) -> None:
    shop.install(shop.archive(1))
    (tmp_path / "bad.edge").write_bytes(b"nonsense")
    with pytest.raises(DeployError):
        shop.install(tmp_path / "bad.edge")
    assert {LOCK, STATE} <= {path.name for path in shop.root.iterdir()}


def test_whoever_waited_for_a_lock_that_was_removed_takes_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, another installation fails and removes it."""
    opened = os.open
    is_first = True

    def slow(path: Path, *more: int) -> int:
        nonlocal is_first
        handle = opened(path, *more)
        if is_first:
            is_first = False
            Path(path).unlink()
        return handle

    monkeypatch.setattr(os, "open", slow)
    with locked(tmp_path, Disk()):
        monkeypatch.undo()
        assert (tmp_path / LOCK).exists()
        with pytest.raises(DeployError, match="another installation"), locked(tmp_path, Disk()):
            pass
        assert (tmp_path / LOCK).exists()  # it is not the loser's to remove
