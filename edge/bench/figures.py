"""From samples to figures: percentiles, ratios of medians, and which way is better. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = dict[str, float | None]
"""Metric -> value; None where it could not be measured. The unit stands in the name: `ttft_sec_p95`."""

_LOWER = ("_sec", "_bytes", "_joules", "_joules_per_tok", "_ratio")
_HIGHER = ("_per_sec", "_share", "_tok_per_joule")


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the samples lie, linear between neighbours (Hyndman and Fan 1996, type 7).

    :raises ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(name: str, samples: Iterable[float | None], percents: Sequence[int] = (50,)) -> Figures:
    """`{name}_p50` and so on; None for each where no sample is left. Samples that are None are left out."""
    found = [sample for sample in samples if sample is not None]
    return {f"{name}_p{percent}": rounded(percentile(found, percent)) if found else None for percent in percents}


def largest(name: str, samples: Iterable[float | None]) -> Figures:
    """`{name}`: the largest sample, None where there is none."""
    found = [sample for sample in samples if sample is not None]
    return {name: rounded(max(found)) if found else None}


def ratios(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> dict[str, float]:
    """Ours ÷ theirs, for every metric that both have and where theirs is not 0."""
    return {
        name: rounded(value / other)
        for name, value in ours.items()
        if value is not None and (other := theirs.get(name)) is not None and other > 0
    }


def rounded(value: float) -> float:
    """Five significant digits, whole numbers as they are: more would only differ between runs."""
    return value if isinstance(value, int) else float(f"{value:.5g}")


def higher_is_better(metric: str) -> bool | None:
    """Whether a larger value of this metric is better; None where neither is."""
    name = metric.rsplit(".", 1)[-1]
    for percent in ("_p50", "_p95", "_p99", "_peak"):
        name = name.removesuffix(percent)
    if name.startswith("recall") or name.endswith(_HIGHER):
        return True
    if name.endswith(_LOWER):
        return False
    return None


def is_figure(value: Any) -> bool:
    """Whether a value read from a file may stand for a metric: a finite number, or None."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
