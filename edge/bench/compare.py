"""Two results side by side, and expressions that say when the second has become worse. Pure.

    decode_tok_per_sec_p50 < 0.95x      B's value is less than 0.95 times A's
    ttft_sec_p95 > 1.1x
    rss_peak_bytes > 256e6              B's value is more than this, whatever A's is
    ratios.decode_tok_per_sec_p50 < 1   B's ratio to its peer

An expression that holds is a regression.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge.bench.figures import rounded
from edge.bench.result import Result
from edge.errors import ResultError, UsageError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_EXPRESSION = re.compile(rf"\s*(?P<metric>[A-Za-z_][\w.]*)\s*(?P<op><=|>=|<|>)\s*(?P<number>{_NUMBER})(?P<times>x?)\s*")
_HELP = 'write METRIC < NUMBER or METRIC < FACTORx, with <, <=, > or >=: "decode_tok_per_sec_p50 < 0.95x"'

# What must be equal for a comparison to say something about the program rather than about the machine.
_COMPARABLE = ("cpu", "cores_allowed", "governor", "memory_limit_bytes", "kernel")
_OTHER_RUN = ("suites", "peers", "peer.", "text", "rag.questions_file")  # settings that may differ


@dataclass(frozen=True, slots=True)
class Condition:
    """One parsed expression."""

    text: str
    metric: str
    operator: str
    number: float
    relative: bool  # the number is a factor of A's value

    def limit(self, before: float) -> float:
        """What B's value is compared with, where A's is `before`."""
        return self.number * before if self.relative else self.number


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of both results."""

    metric: str
    before: float | None
    after: float | None
    ratio: float | None  # B ÷ A


@dataclass(frozen=True, slots=True)
class Failure:
    """A condition that holds: a regression."""

    condition: Condition
    after: float
    limit: float

    def __str__(self) -> str:
        name = self.condition.metric
        return f"{name} is {self.after:g}, {self.condition.operator} {self.limit:g} ({self.condition.text})"


def parse(text: str) -> Condition:
    """Read one expression.

    :raises UsageError: it is none; says how one looks.
    """
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        raise UsageError(f"--fail-if {text!r} cannot be understood: {_HELP}")
    number = float(found["number"])
    if not math.isfinite(number):
        raise UsageError(f"--fail-if {text!r}: {found['number']} is too large for a number")
    return Condition(" ".join(text.split()), found["metric"], found["op"], number, found["times"] == "x")


def resolve(name: str, results: Sequence[Result]) -> str:
    """The plain name of a metric, which may be written as SUITE.METRIC.

    :raises UsageError: no result knows it; names those that look like it.
    """
    known: dict[str, str] = {}
    for result in results:
        known |= {metric: metric for metric in result.metrics()}
        for suite, content in result.suites.items():
            known |= {f"{suite}.{metric}": metric for metric in content.metrics}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else f"they have {', '.join(sorted(known)[:12])}, ..."
    raise UsageError(f"--fail-if: neither result has a metric {name!r}; {advice}")


def judge(conditions: Sequence[Condition], before: Result, after: Result) -> list[Failure]:
    """The conditions that hold.

    :raises UsageError: a condition names a metric that neither result has.
    :raises ResultError: a metric has no value in a result that the condition needs; says why, where it is known.
    """
    failures = []
    for condition in conditions:
        metric = resolve(condition.metric, (before, after))
        value = _value(after, metric, "B")
        limit = condition.limit(_value(before, metric, "A") if condition.relative else 0.0)
        if _OPERATORS[condition.operator](value, limit):
            failures.append(Failure(condition, value, limit))
    return failures


def table(before: Result, after: Result) -> list[Row]:
    """Every metric of either result, in the order of A and then B."""
    old, new = before.metrics(), after.metrics()
    return [Row(name, old.get(name), new.get(name), _ratio(old.get(name), new.get(name))) for name in {**old, **new}]


def differences(before: Result, after: Result) -> list[str]:
    """What else differs between the two runs, and may explain a difference in the figures."""
    found = _differing(before.environment, after.environment, _COMPARABLE)
    old, new = _flat(before.settings), _flat(after.settings)
    found += _differing(old, new, [key for key in {**old, **new} if not key.startswith(_OTHER_RUN) or "sha256" in key])
    bundles = [_digest(result.environment) for result in (before, after)]
    if bundles[0] != bundles[1]:
        found.append(f"bundle: {bundles[0]} and {bundles[1]}")
    return found


def _differing(old: Mapping[str, object], new: Mapping[str, object], keys: Sequence[str]) -> list[str]:
    return [f"{key}: {old.get(key)} and {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, with dots in the keys."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _digest(environment: Mapping[str, object]) -> str:
    bundle = environment.get("bundle")
    return str(bundle.get("digest"))[:12] if isinstance(bundle, dict) else "none"


def _value(result: Result, metric: str, which: str) -> float:
    value = result.metrics().get(metric)
    if value is None:
        reason = result.reason(metric) or "that suite was not run, or had no peer"
        raise ResultError(f"{metric} has no value in {which}, so it cannot be compared: {reason}")
    return value


def _ratio(before: float | None, after: float | None) -> float | None:
    return rounded(after / before) if before and after is not None else None
