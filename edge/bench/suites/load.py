"""Suite `load`: many clients at once. It needs a server of ours, and there is none yet: every metric is null."""

from __future__ import annotations

from edge.bench.context import Context
from edge.bench.result import SuiteResult

NAME = "load"
METRICS = ("queue_wait_sec_p50", "queue_wait_sec_p95", "load_ttft_sec_p95", "rejected_share", "answers_per_sec")


def run(_: Context) -> SuiteResult:
    """Say that it cannot be measured, and why."""
    suite = SuiteResult()
    suite.absent("edge has no server yet: there is nothing that clients could ask over HTTP", *METRICS)
    return suite
