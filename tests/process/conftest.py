"""A daemon that the tests of a module share, and OpenAI's client for it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from _daemon import Daemon

if TYPE_CHECKING:
    import openai


@pytest.fixture(scope="module")
def shared_daemon(sample_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A real daemon with the default bundle and a copy of the sample index, for tests that leave it as it was."""
    home = tmp_path_factory.mktemp("daemon")
    (home / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", home / "index.db")
    with Daemon(environment={**os.environ, "EDGE_HOME": str(home)}) as running:
        yield running


@pytest.fixture(scope="module")
def base(shared_daemon: Daemon) -> str:
    return f"http://{shared_daemon.host}:{shared_daemon.port}"


@pytest.fixture(scope="module")
def client(base: str) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def environment(sample_home: Path, tmp_path: Path) -> dict[str, str]:
    """A home folder of its own: the default bundle, and a copy of the sample index."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", home / "index.db")
    return {**os.environ, "EDGE_HOME": str(home)}


@pytest.fixture
def own_daemon(environment: dict[str, str]) -> Iterator[Daemon]:
    """For tests that look at its start, or at its files."""
    with Daemon(environment=environment) as running:
        yield running


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Daemon:
    """For tests that leave it as it was."""
    return shared_daemon
