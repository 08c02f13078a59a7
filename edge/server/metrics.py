"""What /metrics says, named after OpenTelemetry's conventions for generative AI where they have a name for it.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.machine import status_bytes

if TYPE_CHECKING:
    from edge.server.service import Service

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics(Collector):
    """Counters of one daemon; `text` renders them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        timed: dict[str, Any] = own | {"buckets": _SECONDS}
        operation = ("gen_ai_operation_name",)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to its end, waiting included",
            (*operation, "error_type"),
            **timed,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "From the slot to the first token", operation, **timed
        )
        self._each = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Between tokens after the first", operation, **timed
        )
        self._tokens = Counter(
            "gen_ai_server_token_usage", "Tokens: input (cached ones among them), cached, output", ("type",), **own
        )
        self._queued = Histogram("edge_queue_wait_seconds", "Time that requests waited for a slot", **timed)
        self._errors = Counter("edge_errors", "Requests that failed, by kind", ("kind",), **own)
        self._last: dict[str, float] = {}
        self.registry.register(self)
        self.rate_tok_per_sec = 0.0  # of the newest answer

    def queued(self, seconds: float) -> None:
        self._queued.observe(seconds)

    def message(self, operation: str, message: dict[str, Any], started: float) -> None:
        """A message of a running request came in."""
        now = time.monotonic()
        if "token" in message:
            key = f"{operation}/{started}"
            before = self._last.get(key)
            if before is None:
                self._first.labels(operation).observe(now - started)
            else:
                self._each.labels(operation).observe(now - before)
            self._last[key] = now
        elif isinstance(result := message.get("result"), dict):
            self._last.pop(f"{operation}/{started}", None)
            for kind, name in (("input", "prompt"), ("cached", "cached"), ("output", "completion")):
                self._tokens.labels(kind).inc(result.get(f"{name}_tokens", 0))
            self.rate_tok_per_sec = result.get("decode_tok_per_sec") or self.rate_tok_per_sec

    def ended(self, operation: str, seconds: float, error: str) -> None:
        self._duration.labels(operation, error).observe(seconds)
        if error:
            self.failed(error)
        if self._service.gate.running == 0:
            self._last.clear()  # of requests that ended early

    def failed(self, kind: str) -> None:
        self._errors.labels(kind).inc()

    def collect(self) -> Iterable[Metric]:
        """Gauges, read when they are asked for."""
        gate, backend = self._service.gate, self._service.backend
        for name, text, value in (
            ("edge_requests_running", "Requests that hold a slot", gate.running),
            ("edge_requests_waiting", "Requests in the queue", gate.waiting),
            ("edge_slots", "Answers that may be generated at the same time", gate.slots),
        ):
            yield GaugeMetricFamily(name, text, value)
        provider = GaugeMetricFamily(
            "edge_model_provider",
            "1 for the provider that runs the model; fell_back: the bundle has a form for an accelerator, refused here",
            labels=("provider", "fell_back"),
        )
        if runs := backend.state.get("provider"):
            refused = runs == "CPUExecutionProvider" and backend.state.get("fallbacks", 0) > 0
            provider.add_metric((runs, str(refused).lower()), 1)
        yield provider
        ledger = GaugeMetricFamily("edge_memory_ledger_bytes", "What is planned, by line", labels=("line", "kind"))
        for name, kind, size in backend.state.get("lines", ()):
            ledger.add_metric((name, kind), size)
        yield ledger
        resident = GaugeMetricFamily("edge_memory_resident_bytes", "What is there, by process", labels=("process",))
        for name, pid in self.processes():
            try:
                resident.add_metric((name,), status_bytes("VmRSS", pid))
            except OSError:
                continue  # it has ended
        yield resident

    def processes(self) -> list[tuple[str, int]]:
        """Name and process id of the daemon's processes that run."""
        backend = self._service.backend
        found = {"daemon": os.getpid(), "box": backend.pid, "engine": backend.state.get("engine_pid")}
        if found["box"] == found["daemon"]:
            del found["box"]
        return [(name, pid) for name, pid in found.items() if pid is not None]

    def text(self) -> bytes:
        return generate_latest(self.registry)
