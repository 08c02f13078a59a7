#!/usr/bin/env python3
"""How soon a cancel ends a generation: at random moments of reading a prompt, and of writing an answer.

    scripts/measure_cancel.py [--count N] [--prompt N] [--seed N] [--json] [--bundle DIR]

Seconds from the cancel until the engine is free for the next request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edge.box import Box
from edge.engine.base import Sampling
from edge.engine.worker import WorkerEngine
from edge.errors import EdgeError
from edge.types import Token

TEXT = "The gateway in cabinet nine reads its meters every ten seconds. "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="cancels of each kind (default 30)")
    parser.add_argument("--prompt", type=int, default=1500, help="tokens of the prompts that are read (default 1500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bundle", type=Path, help="default: bundle in the home folder")
    given = parser.parse_args()
    if min(given.count, given.prompt) < 1:
        parser.error("--count and --prompt must be 1 or more")
    with Box.open(bundle=given.bundle, index=None, config=None) as box:
        box.engine.load()
        found = measure(box.engine, given.count, given.prompt, random.Random(given.seed))
    if given.json:
        print(json.dumps(found))
    else:
        for kind, row in found.items():
            print(f"{kind}: " + ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in row.items()))
    return 0


def measure(engine: WorkerEngine, count: int, prompt_tokens: int, rng: random.Random) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and maximum of both kinds, seconds."""
    ids = engine.encode(TEXT * (prompt_tokens // 8))[:prompt_tokens]
    kinds: dict[str, Callable[[int], float]] = {
        "while reading": lambda number: _while_reading(engine, [token + number for token in ids], rng),
        "while writing": lambda number: _while_writing(engine, ids[: 60 + number], rng),
    }
    found = {}
    for kind, one in kinds.items():
        seconds = sorted(one(number) for number in range(count))
        found[kind] = {
            "median": statistics.median(seconds),
            "p95": seconds[max(0, -(-95 * count // 100) - 1)],
            "max": seconds[-1],
        }
    return found


def _while_reading(engine: WorkerEngine, prompt: list[int], rng: random.Random) -> float:
    """The prompt is a new one each time, so that no kept prefix shortens it."""
    session, cancelled = engine.start(prompt, Sampling(max_tokens=200)), 0.0

    def cancel() -> None:
        nonlocal cancelled
        cancelled = time.perf_counter()
        session.cancel()

    timer = threading.Timer(rng.uniform(0.05, 0.8 * len(prompt) / 1000), cancel)
    timer.start()
    _drain(session)
    timer.join()
    return time.perf_counter() - cancelled


def _while_writing(engine: WorkerEngine, prompt: list[int], rng: random.Random) -> float:
    session = engine.start(prompt, Sampling(max_tokens=200))
    tokens = iter(session)
    for _ in itertools.islice(tokens, rng.randint(3, 20)):
        pass
    cancelled = time.perf_counter()
    session.cancel()
    _drain(tokens)
    return time.perf_counter() - cancelled


def _drain(tokens: Iterable[Token]) -> None:
    for _ in tokens:
        pass


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeError as error:
        sys.exit(f"error: {error}")
