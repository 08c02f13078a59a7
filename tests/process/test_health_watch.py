"""A bad release takes no box down: installed under a running daemon, it fails, and the one before serves again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from _daemon import Daemon, Reply, engine_pid  # noqa: E402

from edge.bundle import load  # noqa: E402
from tests.fakes import write_seal  # noqa: E402

pytestmark = [pytest.mark.model, pytest.mark.process]

ASKED = {"model": "edge", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}


def edge(environment: dict[str, str], *arguments: str) -> str:
    call = [sys.executable, "-m", "edge", *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def eventually(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)


def test_a_release_that_fails_gives_way_to_the_one_before(default_bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "EDGE_HOME": str(home), "EDGE_CACHE": str(tmp_path / "cache")}
    for version in ("1.0.0", "1.0.1"):
        bundle = tmp_path / version
        shutil.copytree(default_bundle, bundle)
        write_seal(bundle, dataclasses.replace(load(bundle).manifest, version=version))
        edge(environment, "bundle", "pack", str(bundle), "-o", str(tmp_path / f"{version}.edge"))
        shutil.rmtree(bundle)
    edge(environment, "deploy", "install", "--allow-unsigned", str(tmp_path / "1.0.0.edge"))
    with Daemon(environment=environment) as daemon:

        def served() -> str:
            return str(daemon.call("GET", "/v1/status")["bundle"])

        def told(event: str) -> list[dict[str, object]]:
            return [line for line in daemon.log if line.get("event") == event]

        good = served()
        for _ in range(4):
            daemon.call("POST", "/v1/chat/completions", ASKED)
        said = edge(environment, "deploy", "install", "--allow-unsigned", str(tmp_path / "1.0.1.edge"))
        assert "the daemon was told" in said
        eventually(lambda: bool(told("reloaded")))
        assert served() != good
        daemon.call("POST", "/v1/chat/completions", ASKED)
        _spoil([(home / "current").resolve(), tmp_path / "cache" / "prepared" / served()], engine_pid(daemon.pid))
        statuses = []
        for _ in range(12):
            try:
                daemon.call("POST", "/v1/chat/completions", ASKED)
                statuses.append(200)
            except Reply as reply:
                statuses.append(reply.status)
            if told("rolled_back"):
                break
        assert 503 in statuses
        eventually(lambda: len(told("reloaded")) == 2)
        assert served() == good
        assert daemon.call("POST", "/v1/chat/completions", ASKED)["usage"]["completion_tokens"] == 2
        reason = str(told("rolled_back")[0]["reason"])
        assert "requests failed" in reason
    audit = [json.loads(line) for line in (home / "daemon" / "audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line["reason"]) for line in audit] == [("rolled_back", reason)]
    with Daemon(environment=environment) as daemon:  # and after a restart
        assert daemon.call("GET", "/v1/status")["bundle"] == good


def _spoil(folders: list[Path], engine: int | None) -> None:
    """As a disk does that goes bad: the model's files are damaged, in the release and where they were prepared."""
    files = [file for folder in folders for file in folder.rglob("model.onnx*") if "embedder" not in file.parts]
    assert len(files) >= 2
    for file in files:
        file.unlink()
        file.write_bytes(b"\0" * 100)
    assert engine is not None
    os.kill(engine, signal.SIGKILL)
