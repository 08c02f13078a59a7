"""Shares of a token's time, from a profile as ONNX Runtime writes it; and the script on the real default bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from profile_token import shares  # noqa: E402


def node(name: str, start: int, duration: int) -> dict[str, Any]:
    return {"cat": "Node", "name": f"x{start}_kernel_time", "ts": start, "dur": duration, "args": {"op_name": name}}


def test_shares_are_of_the_steps_that_are_asked_for() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 1000},
        node("MatMul", 0, 999),  # the warm-up, which is not counted
        {"cat": "Session", "name": "model_run", "ts": 2000, "dur": 100},
        node("MatMul", 2000, 60),
        node("Add", 2060, 20),
        {"cat": "Session", "name": "model_run", "ts": 5000, "dur": 100},
        node("MatMul", 5000, 70),
        {"cat": "Node", "name": "x_fence_before", "ts": 5001, "dur": 9, "args": {"op_name": "MatMul"}},
    ]
    found = shares(events, slice(1, None))
    assert found["shares"] == {"MatMul": 0.65, "Add": 0.1, "between kernels": 0.25}
    assert found["kernels_per_step"] == 1
    assert found["between_kernels_sec_per_kernel"] == pytest.approx(50e-6 / 3, rel=1e-3)
    assert shares(events, slice(1, 2))["shares"]["MatMul"] == 0.6


@pytest.mark.model
@pytest.mark.process
def test_the_script_accounts_for_the_whole_time(default_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "token.json"
    command = [sys.executable, ROOT / "scripts" / "profile_token.py", "--bundle", default_bundle, "--prompt", "96",
               "--tokens", "8", "--json", "--out", out]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert json.loads(out.read_text()) == found
    for phase in ("prefill", "decode"):
        assert sum(found[phase]["shares"].values()) == pytest.approx(1, abs=0.01)
        assert found[phase]["shares"]["MatMulNBits"] > 0.2
        assert found[phase]["kernels_per_step"] > 100
    assert found["read_bytes_per_sec"] > 1e9
    assert 0.02 < found["share_of_bandwidth_limit"] < 1.5
