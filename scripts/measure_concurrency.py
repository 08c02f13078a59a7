#!/usr/bin/env python3
"""What simultaneous requests get: generators that take turns in one process, against the library's static batch.

    scripts/measure_concurrency.py [--repeats N] [--prompt N] [--new N] [--drafts N] [--bundle DIR] [--json]

The kinds run interleaved, in another order each round: 1, 2 and 4 requests through the engine as `edge` runs it, and 4
as one static batch. Prompts differ, answers are greedy, and no prefix is kept. Prints medians over the rounds:

    tok_per_sec    new tokens of all requests, over the time from the first request to the last token, prompts included
    gap_p95_ms     95th percentile of the time between two tokens of one request
    ttft_ms        time to the first token, of the request that waited longest for it

The machine must be idle, or the figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge import bundle
from edge.box import Box
from edge.engine.base import EngineOptions, Sampling
from edge.engine.worker import WorkerEngine
from edge.errors import EdgeError

TEXT = "The gateway in cabinet nine reads its meters every ten seconds. "
MOST = 4
Times = list[list[float]]
"""Of each request: seconds from the start of all to each of its tokens."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--prompt", type=int, default=200, help="tokens of each prompt (default 200)")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer, at most (default 64)")
    parser.add_argument("--drafts", type=int, default=0, help="draft tokens of the generators (default 0: none)")
    parser.add_argument("--bundle", type=Path, help="default: bundle in the home folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--static", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.static is not None:
        serve_static(json.loads(given.static))
        return 0
    if min(given.repeats, given.prompt, given.new) < 1:
        parser.error("--repeats, --prompt and --new must be 1 or more")
    with Box.open(bundle=given.bundle, index=None, config=None) as box:
        found = measure(box, given.repeats, given.prompt, given.new, given.drafts)
    if given.json:
        print(json.dumps(found))
        return 0
    print(f"{'kind':16}" + "".join(f"{name:>13}" for name in ("tok_per_sec", "gap_p95_ms", "ttft_ms", "tokens")))
    for kind, row in found["kinds"].items():
        print(f"{kind:16}" + "".join(f"{value:13.1f}" for value in row.values()))
    if found["static_error"]:
        print(f"static batch: {found['static_error']}")
    return 0


def measure(box: Box, repeats: int, prompt_tokens: int, new: int, drafts: int) -> dict[str, Any]:
    """Medians of each kind, and why there is no static batch where there is none."""
    options = EngineOptions(
        context_tokens=prompt_tokens + new, threads=box.threads, prefix_caches=0, draft_tokens=drafts, sessions=MOST
    )
    model = box.bundle.manifest.model
    template = bundle.chat_template(box.bundle)
    engine = WorkerEngine(box.model_folder, template, model.stop_tokens, options)
    static = Static(box.model_folder, options, new)
    rows: dict[str, list[dict[str, float]]] = {}
    try:
        ids = engine.encode(TEXT * (prompt_tokens // 8 + 1))[: prompt_tokens - 1]
        prompts = [[first, *ids] for first in engine.encode("One two six ten")[:MOST]]
        kinds: dict[str, Callable[[], Times | None]] = {
            f"{count} generators": lambda count=count: _together(engine, prompts[:count], new)  # type: ignore[misc]
            for count in (1, 2, MOST)
        }
        kinds[f"batch of {MOST}"] = lambda: static.run(prompts)
        for run in kinds.values():
            run()  # loads, and warms up
        rng = random.Random(0)
        for _ in range(repeats):
            for kind in rng.sample(sorted(kinds), len(kinds)):
                if (times := kinds[kind]()) is not None:
                    rows.setdefault(kind, []).append(figures(times))
    finally:
        engine.close()
        static.close()
    medians = {
        kind: {name: statistics.median(row[name] for row in rows[kind]) for name in rows[kind][0]}
        for kind in kinds
        if kind in rows
    }
    return {"kinds": medians, "static_error": static.error, "options": dataclasses.asdict(options), "repeats": repeats}


def figures(times: Times) -> dict[str, float]:
    """See this file's first lines."""
    gaps = sorted(later - earlier for one in times for earlier, later in pairwise(one))
    tokens = sum(map(len, times))
    return {
        "tok_per_sec": tokens / max(one[-1] for one in times),
        "gap_p95_ms": gaps[max(0, -(-95 * len(gaps) // 100) - 1)] * 1000 if gaps else 0.0,
        "ttft_ms": max(one[0] for one in times) * 1000,
        "tokens": tokens,
    }


def _together(engine: WorkerEngine, prompts: list[list[int]], new: int) -> Times:
    times: Times = [[] for _ in prompts]
    started = time.perf_counter()

    def read(prompt: list[int], into: list[float]) -> None:
        for _ in engine.start(prompt, Sampling(max_tokens=new)):
            into.append(time.perf_counter() - started)

    threads = [threading.Thread(target=read, args=pair) for pair in zip(prompts, times, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(times):
        raise EdgeError("a request got no token: the engine failed, see above")
    return times


class Static:
    """The library's `Engine` in a process of its own: it makes one batch of what is there when it begins."""

    def __init__(self, folder: Path, options: EngineOptions, new: int) -> None:
        settings = {"folder": str(folder), "threads": options.threads, "length": options.context_tokens, "new": new}
        self.error = ""
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--static", json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip

    def run(self, prompts: list[list[int]]) -> Times | None:
        """None where it does not run; `error` says why."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        if self.error:
            return None
        try:
            process.stdin.write(json.dumps(prompts) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            line = ""
        else:
            line = process.stdout.readline()
        if not line:
            self.error = (process.stderr.read().strip().splitlines() or ["it ended without a word"])[-1]
            return None
        times: Times = json.loads(line)
        return times

    def close(self) -> None:
        self._process.communicate()


def serve_static(settings: dict[str, Any]) -> None:
    """One batch for each line of prompts."""
    import onnxruntime_genai as og

    config = og.Config(settings["folder"])
    session = {"intra_op_num_threads": settings["threads"]}
    decoder = {"session_options": session}
    config.overlay(json.dumps({"model": {"decoder": decoder}, "engine": {"static_batching": {"max_batch_size": MOST}}}))
    engine = og.Engine(og.Model(config))
    for line in sys.stdin:
        print(json.dumps(_batch(og, engine, json.loads(line), settings["length"], settings["new"])), flush=True)


def _batch(og: Any, engine: Any, prompts: list[list[int]], length: int, new: int) -> Times:
    events = engine.create_event_buffer(64)
    requests, times = [], [list[float]() for _ in prompts]
    started = time.perf_counter()
    for prompt in prompts:
        options = og.RequestOptions()
        options.set_max_session_tokens(length)
        request = engine.create_request(options=options)
        turn = og.TurnOptions(request)
        turn.set_max_generated_tokens(new)
        turn.set_do_sample(False)
        request.begin_turn(prompt, turn)
        requests.append(request)
    while engine.has_pending_requests():
        engine.run(events)
        now = time.perf_counter() - started
        for event in (events[index] for index in range(len(events))):
            if event.flags & og.EngineEventFlags.FAILED:
                raise RuntimeError(f"the library's engine reports {event.error_code}")
            if event.flags & og.EngineEventFlags.TOKEN:
                times[next(i for i, request in enumerate(requests) if request is event.request)].append(now)
    for request in requests:
        request.close()
    return times


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeError as error:
        sys.exit(f"error: {error}")
