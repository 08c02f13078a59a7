"""Suite `energy`: joules per token, where the kernel counts them (RAPL), or a battery's charge falls.

RAPL: Documentation/power/powercap/powercap.rst; counters in microjoules that wrap at `max_energy_range_uj`.
Battery: Documentation/ABI/testing/sysfs-class-power; microwatt hours, or microampere hours times microvolts.
The power of the idle machine, measured first, is taken off.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.bench.context import Context
from edge.bench.figures import rounded
from edge.bench.result import SuiteResult

NAME = "energy"
METRICS = ("decode_joules_per_tok", "prefill_joules_per_tok", "idle_watt", "decode_watt", "prefill_watt")
_POWERCAP = Path("/sys/class/powercap")
_SUPPLIES = Path("/sys/class/power_supply")
_DECODE_PROMPT, _PREFILL_PROMPT = 16, 1024  # tokens: little to read, and little to write
_JOULES_PER_WATT_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads a rising count of joules that were used."""

    name: str
    joules: Callable[[], float]


def meter(powercap: Path = _POWERCAP, supplies: Path = _SUPPLIES) -> Meter | str:
    """What this machine measures energy with, or why it does not."""
    packages = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if readable := [zone for zone in packages if _number(zone / "energy_uj") is not None]:
        counters = [_Counter(zone) for zone in readable]
        return Meter("RAPL", lambda: sum(counter.joules() for counter in counters))
    if packages:
        return "RAPL is there, but only root may read its counters (energy_uj)"
    for supply in sorted(supplies.glob("*")):
        if _discharging(supply) and _battery_joules(supply) is not None:
            return Meter(f"battery {supply.name}", functools.partial(_used, supply))
    return "the kernel offers neither RAPL counters nor a discharging battery"


def run(context: Context) -> SuiteResult:
    """Measure ours: the idle machine, then decoding, then prefill."""
    suite = SuiteResult()
    found = meter()
    if isinstance(found, str):
        suite.absent(found, *METRICS)
        return suite
    seconds, new_tokens = context.config.energy.seconds, context.config.latency.new_tokens
    context.own.forget()

    def rest() -> int:
        time.sleep(0.1)
        return 0

    def decode() -> int:
        return context.own.generate(context.pool.draw(_DECODE_PROMPT), new_tokens).completion_tokens

    def prefill() -> int:
        return context.own.generate(context.pool.draw(_PREFILL_PROMPT), 1).prompt_tokens

    idle = _work(found, seconds, rest)
    suite.metrics["idle_watt"] = rounded(idle.joules / idle.seconds)
    for name, work in (("decode", decode), ("prefill", prefill)):
        spent = _work(found, seconds, work)
        above_idle = spent.joules - idle.joules / idle.seconds * spent.seconds
        suite.metrics[f"{name}_watt"] = rounded(spent.joules / spent.seconds)
        suite.metrics[f"{name}_joules_per_tok"] = rounded(max(0.0, above_idle) / spent.tokens)
    suite.samples["meter"] = found.name
    return suite


@dataclass(frozen=True, slots=True)
class _Spent:
    joules: float
    seconds: float
    tokens: int


def _work(meter: Meter, seconds: float, work: Callable[[], int]) -> _Spent:
    """Do something again and again until the time is over; it returns how many tokens it made."""
    before, started, tokens = meter.joules(), time.monotonic(), 0
    while time.monotonic() - started < seconds:
        tokens += work()
    return _Spent(meter.joules() - before, time.monotonic() - started, max(tokens, 1))


class _Counter:
    """One RAPL package as joules that only rise: its counter wraps."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = _number(zone / "max_energy_range_uj") or 0
        self._last, self._wraps = _number(self._file) or 0, 0

    def joules(self) -> float:
        now = _number(self._file)
        if now is None:
            now = self._last
        if now < self._last:
            self._wraps += 1
        self._last = now
        return (now + self._wraps * self._range) / 1e6


def _discharging(supply: Path) -> bool:
    try:
        return (supply / "status").read_text(encoding="utf-8").strip() == "Discharging"
    except OSError:
        return False


def _used(supply: Path) -> float:
    """Joules that are missing from a battery: against nothing in particular, and rising."""
    return -(_battery_joules(supply) or 0.0)


def _battery_joules(supply: Path) -> float | None:
    """The energy left in a battery."""
    if (energy := _number(supply / "energy_now")) is not None:
        return energy / 1e6 * _JOULES_PER_WATT_HOUR
    charge, voltage = _number(supply / "charge_now"), _number(supply / "voltage_now")
    return None if charge is None or voltage is None else charge * voltage / 1e12 * _JOULES_PER_WATT_HOUR


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
