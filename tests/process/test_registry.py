"""Archives through a real registry: only what changed moves, a killed transfer goes on, a box installs from it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from _registry import PROGRAM, Registry  # noqa: E402

from edge.deploy.install import Options  # noqa: E402
from edge.deploy.pack import Extras  # noqa: E402
from edge.deploy.registry.pull import install_from  # noqa: E402
from edge.deploy.registry.reference import parse  # noqa: E402
from tests.edge.deploy.made import FakeHost, Shop, check_box  # noqa: E402

pytestmark = [pytest.mark.process, pytest.mark.skipif(PROGRAM is None, reason="needs docker-registry")]
LARGE_BYTES = 24 * 2**20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def archive(shop: Shop, version: int) -> Path:
    """Two versions have the same large file."""
    path = shop.folder / "questions.json"
    path.write_bytes(random.Random(5).randbytes(LARGE_BYTES))
    return shop.archive(version, extras=Extras(evaluation=(path,)))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge", "bundle", *map(str, arguments), "--json"]


def edge(environment: dict[str, str], *arguments: object) -> dict[str, object]:
    done = subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_what_moves(registry: Registry, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    environment = {**os.environ, "EDGE_HOME": str(tmp_path / "home"), "EDGE_CACHE": str(tmp_path / "cache")}
    first, second = archive(shop, 1), archive(shop, 2)
    name = f"{registry.host}/shop/fake"
    sent = edge(environment, "push", first, f"{name}:1")
    assert int(str(sent["sent_bytes"])) > LARGE_BYTES and sent["is_signed"]
    assert int(str(edge(environment, "push", first, f"{name}:1")["sent_bytes"])) < 4096, "it has all of it"
    assert int(str(edge(environment, "push", second, f"{name}:2")["sent_bytes"])) < LARGE_BYTES / 100

    out = tmp_path / "pulled.edge"
    slow = subprocess.Popen(
        command("pull", f"{name}:1", "-o", out, "--limit-rate", "4MiB"), env=environment, stdout=subprocess.DEVNULL
    )  # six seconds
    time.sleep(2.5)
    slow.kill()
    slow.wait()
    assert not out.exists()
    got = edge(environment, "pull", f"{name}@sha256:{sent['digest']}", "-o", out)
    assert out.read_bytes() == first.read_bytes()
    assert int(str(got["resumed_bytes"])) > 2**20, got

    installed, _ = install_from(parse(f"{name}:1"), shop.root, Options(), host=FakeHost())
    _, moved = install_from(parse(f"{name}:2"), shop.root, Options(), host=FakeHost())
    assert moved.fetched_bytes < LARGE_BYTES / 100, "the box had the large file"
    assert check_box(shop.root, ["2.0.0"]) == "2.0.0" and re.fullmatch("[0-9a-f]{64}", installed.name)
