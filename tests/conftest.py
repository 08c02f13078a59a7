"""Fixtures that several packages share. The default bundle is the real one, built once and cached by recipe digest."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored, by children too

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


@pytest.fixture(scope="session")
def default_bundle() -> Path:
    """The bundle of the default recipe; only a changed recipe, builder or tool version builds it again."""
    from edge.files import cache
    from optimize import pipeline
    from optimize.recipe import DEFAULT, load_recipe

    out = cache() / "tests" / "bundle"
    pipeline.run(load_recipe(DEFAULT), out, lambda stage, state: None)
    return out


@pytest.fixture(scope="session")
def sample_home(default_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EDGE_HOME with the default bundle and an index of the sample documents. Not to be written to."""
    from edge.box import Box
    from edge.config import EdgeConfig
    from edge.ingest.index import ingest

    home = tmp_path_factory.mktemp("home")
    (home / "bundle").symlink_to(default_bundle)
    with Box(home / "bundle", home / "index.db", EdgeConfig()) as box:
        report = ingest([SAMPLES / "documents"], box.open_store(create=True), box.embedder, box.config.ingest)
    assert not report.failed
    return home


@pytest.fixture
def edge_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty EDGE_HOME for this test."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("EDGE_HOME", str(home))
    yield home
