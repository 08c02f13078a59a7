from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.deploy.made import Shop
from tests.edge.deploy.wrong_registry import WrongRegistry, running


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def registry(nobody: Path) -> Iterator[WrongRegistry]:
    with running() as made:
        yield made


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without credentials, proxies and a cache; returns where the blobs of the cache go."""
    for name in ("EDGE_REGISTRY_USER", "EDGE_REGISTRY_PASSWORD", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "registry"
