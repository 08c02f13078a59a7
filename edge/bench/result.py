"""The result of a benchmark: one JSON file, written by rename, with a numbered schema and its environment inside.

{
  "schema": 1,
  "complete": true,                  false where a peer failed or the run was stopped; `errors` says why
  "errors": [],
  "created": "2026-11-22T12:00:00Z",
  "environment": {...},              see environment.py
  "settings": {...},                 see config.py
  "suites": {"latency": {
      "metrics": {"ttft_sec_p50": 0.21, ...},    units in the names; null where it could not be measured
      "reasons": {"cold_start_sec_p50": "..."},  why a metric is null
      "samples": {...},                          what the metrics were made from
      "series": {...}}},                         what is drawn: by prompt length, over time, by index size
  "peers": [{"name": "llama-server Q8_0", "suites": {...}, "ratios": {...}, "error": null, ...}],
  "ratios": {"ttft_sec_p50": 0.9, ...}           ours ÷ the first peer that has the metric
}

A metric's name occurs in one suite only, so `ttft_sec_p50` and `latency.ttft_sec_p50` mean the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge.bench.figures import Figures, is_figure, ratios
from edge.errors import ResultError
from edge.files import write_atomic

SCHEMA = 1
_MAX_BYTES = 256 * 2**20
_AGAIN = "Run `edge bench` again to make it anew"


@dataclass
class SuiteResult:
    """What one suite measured on one side."""

    metrics: Figures = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)

    def absent(self, reason: str, *names: str) -> None:
        """Say why metrics are null; those that have a value keep it."""
        for name in names:
            if self.metrics.setdefault(name, None) is None:
                self.reasons[name] = reason


@dataclass
class PeerResult:
    """What was measured on a peer, and our figures divided by its own."""

    name: str
    kind: str  # "llama.cpp" or "url"
    details: dict[str, Any] = field(default_factory=dict)  # version, format, command
    suites: dict[str, SuiteResult] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Result:
    """A whole run."""

    environment: dict[str, Any]
    settings: dict[str, Any]
    created: str  # ISO 8601, UTC
    suites: dict[str, SuiteResult] = field(default_factory=dict)
    peers: list[PeerResult] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    complete: bool = True
    errors: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def divide(self) -> None:
        """Fill in the ratios: of each peer, and of the first peer that has the metric."""
        self.ratios = {}
        for peer in self.peers:
            peer.ratios = {}
            for name, suite in self.suites.items():
                if name in peer.suites:
                    peer.ratios |= ratios(suite.metrics, peer.suites[name].metrics)
            self.ratios = peer.ratios | self.ratios

    def metrics(self) -> Figures:
        """Every metric under its plain name, and every ratio as `ratios.NAME`."""
        found: Figures = {}
        for suite in self.suites.values():
            found |= suite.metrics
        return found | {f"ratios.{name}": value for name, value in self.ratios.items()}

    def reason(self, metric: str) -> str | None:
        """Why a metric is null, where that is known."""
        return next((suite.reasons[metric] for suite in self.suites.values() if metric in suite.reasons), None)


def to_json(result: Result) -> dict[str, Any]:
    """The result as plain data, the schema first."""
    plain = asdict(result)
    return {"schema": plain.pop("schema"), "complete": plain.pop("complete"), "errors": plain.pop("errors"), **plain}


def write(result: Result, path: Path) -> Path:
    """Write the result by rename, and return where it went: a run that is not whole goes to `PATH.partial`.

    :raises ResultError: the place cannot be written to.
    """
    target = path if result.complete else path.with_name(f"{path.name}.partial")
    try:
        write_atomic(target, json.dumps(to_json(result), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ResultError(f"{target}: cannot be written: {error.strerror or error}. Name another place") from error
    return target


def read(path: Path) -> Result:
    """Read a result file.

    :raises ResultError: it is missing, damaged, no result at all, or of another schema; says what to do.
    """
    plain = _read_object(path)
    _check_schema(path, plain)
    try:
        return Result(
            environment=_expect(plain, "environment", dict),
            settings=_expect(plain, "settings", dict),
            created=_expect(plain, "created", str),
            suites=_suites(_expect(plain, "suites", dict)),
            peers=[_peer(peer) for peer in _expect(plain, "peers", list)],
            ratios=_figures(_expect(plain, "ratios", dict)),  # type: ignore[arg-type]
            complete=_expect(plain, "complete", bool),
            errors=[str(error) for error in _expect(plain, "errors", list)],
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ResultError(f"{path}: damaged, or no result of `edge bench`: {error}. {_AGAIN}") from None


def _read_object(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no number")

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ResultError(f"{path}: above 256 MiB, so no result of `edge bench`. Name another file")
        plain = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file. Make it with `edge bench --out {path}`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path}: cannot be read as JSON: {error}. {_AGAIN}") from None
    if not isinstance(plain, dict):
        raise ResultError(f"{path}: no result of `edge bench`: it holds no JSON object. Name another file")
    return plain


def _check_schema(path: Path, plain: dict[str, Any]) -> None:
    schema = plain.get("schema")
    if type(schema) is not int:
        raise ResultError(f"{path}: it has no schema number, so it is no result of `edge bench`. Name another file")
    if schema == SCHEMA:
        return
    environment = plain.get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    writer = versions.get("edge-slm") if isinstance(versions, dict) else None
    by = f" by edge-slm {writer}" if isinstance(writer, str) else ""
    if schema > SCHEMA:
        raise ResultError(
            f"{path}: written{by} in the newer schema {schema}, and this program reads schema {SCHEMA}. "
            "Update edge-slm here, or read it where it was written"
        )
    raise ResultError(
        f"{path}: written{by} in the older schema {schema}, and this program reads schema {SCHEMA}: the figures do not "
        "mean the same. Run `edge bench` again with this version, or read the file with the version that wrote it"
    )


def _expect(plain: dict[str, Any], key: str, kind: type) -> Any:
    if type(plain.get(key)) is not kind:
        raise ValueError(f"{key} is {'missing' if key not in plain else 'not a ' + kind.__name__}")
    return plain[key]


def _suites(plain: dict[str, Any]) -> dict[str, SuiteResult]:
    return {
        name: SuiteResult(
            metrics=_figures(_expect(suite, "metrics", dict)),
            reasons={str(key): str(reason) for key, reason in _expect(suite, "reasons", dict).items()},
            samples=_expect(suite, "samples", dict),
            series=_expect(suite, "series", dict),
        )
        for name, suite in plain.items()
    }


def _peer(plain: dict[str, Any]) -> PeerResult:
    return PeerResult(
        name=_expect(plain, "name", str),
        kind=_expect(plain, "kind", str),
        details=_expect(plain, "details", dict),
        suites=_suites(_expect(plain, "suites", dict)),
        ratios=_figures(_expect(plain, "ratios", dict)),  # type: ignore[arg-type]
        error=plain["error"] if isinstance(plain.get("error"), str) else None,
    )


def _figures(plain: dict[str, Any]) -> Figures:
    for name, value in plain.items():
        if not is_figure(value):
            raise ValueError(f"{name} is {value!r}, which is no number")
    return plain
