"""Counters of energy as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.bench.suites.energy import Meter, meter


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_rapl_counts_packages_once_and_over_a_wrap(tmp_path: Path) -> None:
    first = write(tmp_path / "cap" / "intel-rapl:0", energy_uj=9_000_000, max_energy_range_uj=10_000_000)
    write(tmp_path / "cap" / "intel-rapl:1", energy_uj=500_000, max_energy_range_uj=10_000_000)
    write(tmp_path / "cap" / "intel-rapl:0:0", energy_uj=5, max_energy_range_uj=10)  # a part of the first
    found = meter(tmp_path / "cap", tmp_path / "none")
    assert isinstance(found, Meter) and found.name == "RAPL"
    before = found.joules()
    write(first, energy_uj=1_000_000)
    assert found.joules() - before == pytest.approx(2.0)


def test_rapl_that_only_root_reads(tmp_path: Path) -> None:
    write(tmp_path / "cap" / "intel-rapl:0")
    assert "only root" in str(meter(tmp_path / "cap", tmp_path / "none"))


def test_a_battery_counts_while_it_discharges(tmp_path: Path) -> None:
    battery = write(tmp_path / "BAT0", status="Discharging", energy_now=50_000_000)
    found = meter(tmp_path / "none", tmp_path)
    assert isinstance(found, Meter)
    before = found.joules()
    write(battery, energy_now=49_000_000)
    assert found.joules() - before == pytest.approx(3600)
    write(battery, status="Charging")
    assert "neither RAPL" in str(meter(tmp_path / "none", tmp_path))


def test_a_battery_that_counts_charge(tmp_path: Path) -> None:
    battery = write(tmp_path / "BAT1", status="Discharging", charge_now=2_000_000, voltage_now=12_000_000)
    found = meter(tmp_path / "none", tmp_path)
    assert isinstance(found, Meter)
    before = found.joules()
    write(battery, charge_now=1_000_000)
    assert found.joules() - before == pytest.approx(12 * 3600)
