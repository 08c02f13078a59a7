"""A seeded part of `scripts/qualify daemon`: load in little memory, killed models, malformed requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.model, pytest.mark.process]


def measured(sample_home: Path, *arguments: str) -> dict[str, Any]:
    call = [sys.executable, str(ROOT / "scripts" / "measure_daemon.py"), *arguments, "--json"]
    environment = {**os.environ, "EDGE_HOME": str(sample_home)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_malformed_requests_are_the_sender_s_fault(sample_home: Path) -> None:
    found = measured(sample_home, "hostile", "--requests", "500", "--seed", "5")
    assert found["faults"] == []
    assert found["bugs"] == []
    assert found["slow_loris_longest_sec"] < 15
    assert found["passed"], found
    assert sum(found["statuses"].values()) == 500


def test_many_clients_in_256_mib(sample_home: Path) -> None:
    found = measured(sample_home, "load", "--clients", "8", "--seconds", "8", "--limit", "256MiB")
    assert found["oom_kills"] == 0
    assert found["failures"] == {}
    assert found["answered"] > 0
    assert found["is_alive"]


def test_models_killed_in_streams(sample_home: Path) -> None:
    found = measured(sample_home, "kills", "--points", "3", "--seed", "2")
    assert (found["told"], found["next_request_worked"]) == (3, 3), found["problems"]
