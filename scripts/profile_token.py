#!/usr/bin/env python3
"""Where the time of a token goes: kernels by operator, what lies between them, and the limit of memory bandwidth.

    scripts/profile_token.py [--prompt N] [--tokens N] [--json] [--out FILE] [--bundle DIR]

Runs the bundle's graph in ONNX Runtime itself, with keys and values written in place as the engine does it: once with
the profiler, for the shares, and once without, for the times, since the profiler slows it down. `between kernels` is
what a step takes beyond its kernels: dispatch, allocation, and the profiler's own bookkeeping. Bandwidth is that of
`threads` processes reading arrays that are much larger than any cache, and its limit for a token is the time to read
all weights once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from _environment import environment

from edge.box import Box
from edge.errors import EdgeError
from edge.files import write_atomic
from edge.mapped import read_used

READ_BYTES = 2**28
READS = 7
PIECE_TOKENS = 64


class Graph:
    """A decoder's graph with its cache, fed step by step."""

    def __init__(self, folder: Path, threads: int, capacity: int, profile: Path | None = None) -> None:
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        self.session = ort.InferenceSession(folder / config["filename"], options, providers=["CPUExecutionProvider"])
        heads, size = config["num_key_value_heads"], config["head_size"]
        types = {item.name: item.type for item in self.session.get_inputs()}
        kind = np.int8 if "int8" in types["past_key_values.0.key"] else np.float32
        self.cache = {
            f"{layer}.{part}": ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, capacity, size), kind))
            for layer in range(config["num_hidden_layers"])
            for part in ("key", "value")
        }
        self.length = 0

    def step(self, tokens: int) -> float:
        """Read `tokens` tokens; seconds."""
        self.length += tokens
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.full((1, tokens), 17, np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self.length), np.int64))
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_output("logits", "cpu")
        started = time.perf_counter()
        self.session.run_with_iobinding(binding)
        return time.perf_counter() - started


def run(folder: Path, threads: int, prompt: int, tokens: int, profile: Path | None = None) -> tuple[Graph, Any]:
    """The prompt in pieces, then tokens one by one; seconds of each step of both."""
    graph = Graph(folder, threads, prompt + tokens + PIECE_TOKENS, profile)
    graph.step(PIECE_TOKENS)  # warm: maps the weights
    graph.length = 0
    pieces = [graph.step(min(PIECE_TOKENS, prompt - start)) for start in range(0, prompt, PIECE_TOKENS)]
    return graph, (pieces, [graph.step(1) for _ in range(tokens)])


def shares(events: Sequence[dict[str, Any]], runs: slice) -> dict[str, Any]:
    """What kernels of each operator take of the steps `runs`, and what lies between them; shares of 1."""
    steps = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")[runs]
    first, last = steps[0][0], steps[-1][1]
    total = sum(end - start for start, end in steps)
    taken: Counter[str] = Counter()
    count = 0
    for event in events:
        if event.get("cat") == "Node" and first <= event["ts"] < last and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"]] += event["dur"]
            count += 1
    found = {name: round(spent / total, 4) for name, spent in taken.most_common()}
    between = 1 - sum(taken.values()) / total
    return {
        "shares": {**found, "between kernels": round(between, 4)},
        "kernels_per_step": count // len(steps),
        "between_kernels_sec_per_kernel": round(between * total * 1e-6 / max(1, count), 9),
    }


def read_loop(_: int) -> float:
    """Bytes per second of reading an array much larger than the caches; best of several."""
    data = np.ones(READ_BYTES // 8, np.int64)
    best = 0.0
    for _ in range(READS):
        started = time.perf_counter()
        int(np.bitwise_or.reduce(data))
        best = max(best, data.nbytes / (time.perf_counter() - started))
    return best


def bandwidth(threads: int) -> float:
    """Bytes per second that all threads together read from memory."""
    with multiprocessing.get_context("spawn").Pool(threads) as pool:
        return sum(pool.map(read_loop, range(threads)))


def measure(box: Box, prompt: int, tokens: int) -> dict[str, Any]:
    folder, threads = box.model_folder, box.threads
    with tempfile.TemporaryDirectory(prefix="edge-profile-") as scratch:
        graph, _ = run(folder, threads, prompt, tokens, Path(scratch) / "ort")
        events = json.loads(Path(graph.session.end_profiling()).read_text(encoding="utf-8"))
        del graph
    pieces = -(-prompt // PIECE_TOKENS)
    _, (prefill, decode) = run(folder, threads, prompt, tokens)
    weights = sum(end - start for spans in read_used(folder).values() for start, end in spans)
    rate = bandwidth(threads)
    token = statistics.median(decode)
    return {
        "environment": environment() | {"threads": threads, "bundle": box.bundle.digest},
        "prompt_tokens": prompt,
        "prefill": {"tok_per_sec": round(prompt / sum(prefill), 1)} | shares(events, slice(1, 1 + pieces)),
        "decode": {"tok_per_sec_p50": round(1 / token, 1)} | shares(events, slice(1 + pieces, None)),
        "weights_read_bytes": weights or None,
        "read_bytes_per_sec": round(rate),
        "bandwidth_limit_tok_per_sec": round(rate / weights, 1) if weights else None,
        "share_of_bandwidth_limit": round(weights / rate / token, 3) if weights else None,
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        f"bandwidth {found['read_bytes_per_sec'] / 1e9:.1f} GB/s; limit {found['bandwidth_limit_tok_per_sec']} tok/s, "
        f"of which decoding reaches {found['share_of_bandwidth_limit']}"
    ]
    for phase, rate in (("prefill", "tok_per_sec"), ("decode", "tok_per_sec_p50")):
        part = found[phase]
        lines.append(f"{phase}: {part[rate]} tok/s, {part['kernels_per_step']} kernels a step")
        lines += [f"  {name:36} {share:7.1%}" for name, share in part["shares"].items() if share >= 0.002]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that are decoded after it")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        with Box.open(bundle=options.bundle, index=None, config=None) as box:
            found = measure(box, options.prompt, options.tokens)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.out:
        write_atomic(options.out, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
