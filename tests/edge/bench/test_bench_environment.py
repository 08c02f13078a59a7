"""What a result says about where it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.bench import environment as module
from edge.bench.environment import conditions, environment
from edge.bundle import load
from tests.fakes import write_bundle


def test_everything_is_there_and_is_json(tmp_path: Path) -> None:
    bundle = load(write_bundle(tmp_path / "bundle"))
    found = environment(bundle)
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and found["kernel"] and found["cores_allowed"] >= 1
    assert found["versions"]["edge-slm"] and found["versions"]["onnxruntime-genai"]
    assert found["bundle"]["digest"] == bundle.digest
    assert found["memory_limit_bytes"] is None or 0 < found["memory_limit_bytes"] <= 2**62
    assert str(tmp_path) not in json.dumps(found)


def test_conditions_are_numbers_or_null() -> None:
    found = conditions()
    assert found["load_average_1min"] >= 0
    assert all(value is None or isinstance(value, int | float) for value in found.values())


def test_the_commit_is_that_of_the_checkout_the_code_runs_from(tmp_path: Path) -> None:
    assert module._commit(tmp_path) == {"git_sha": None, "git_dirty": None}
    checkout = Path(module.__file__).parents[2]
    found = module._commit(checkout)
    assert module._commit(checkout / "edge") == {
        "git_sha": None,
        "git_dirty": None,
    }  # below the top of another checkout
    if (checkout / ".git").exists():
        assert len(found["git_sha"]) == 40 and isinstance(found["git_dirty"], bool)


def test_sensors_are_read_where_the_kernel_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(module, "_CPUS", tmp_path)
    monkeypatch.setattr(module, "_THERMAL", tmp_path)
    for core, governor in ((0, "performance"), (1, "powersave")):
        (tmp_path / f"cpu{core}" / "cpufreq").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_governor").write_text(f"{governor}\n")
        (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text("2400000\n")
        (tmp_path / f"cpu{core}" / "thermal_throttle").mkdir()
        (tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count").write_text("3\n")
        (tmp_path / f"thermal_zone{core}").mkdir()
        (tmp_path / f"thermal_zone{core}" / "temp").write_text(f"{50 + core}000\n")
    assert module._governor() == "performance, powersave"
    found = conditions()
    assert (found["clock_mhz"], found["temperature_celsius"], found["throttle_count"]) == (2400.0, 51.0, 6)
