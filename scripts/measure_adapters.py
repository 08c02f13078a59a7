#!/usr/bin/env python3
"""What adapters that stay separate cost: the plain build, the one with inputs for adapters, and that with one active.

    scripts/measure_adapters.py PLAIN SEPARATE [--adapter NAME] [--rounds N] [--prompt N] [--new N] [--json]

PLAIN is a bundle without adapters (or with one merged), SEPARATE the same recipe with `adapters:`. The three take
turns, in another order each round; rates are tokens per second, no drafts, no kept prefixes. Prints medians, and ratios
of medians: below 1 is slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from _environment import environment

from edge import bundle
from edge.engine.base import EngineOptions, Sampling
from edge.engine.worker import WorkerEngine
from edge.errors import EdgeError, UsageError

TEXT = "The gateway in cabinet nine reads its meters every ten seconds, and logs what it reads. "
RATES = ("prefill_tok_per_sec", "decode_tok_per_sec")
SIDES = ("plain", "separate", "active")
RATIOS = (("separate", "plain"), ("active", "plain"), ("active", "separate"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path, help="folder of the bundle without adapters")
    parser.add_argument("separate", type=Path, help="folder of the bundle with adapters")
    parser.add_argument("--adapter", help="default: the first of the bundle's")
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--prompt", type=int, default=256, help="tokens (default 256)")
    parser.add_argument("--new", type=int, default=128, help="tokens, at most (default 128)")
    parser.add_argument("--threads", type=int, default=0, help="default: the cores that may be used")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if min(given.rounds, given.prompt, given.new) < 2:
        parser.error("--rounds, --prompt and --new must be 2 or more")
    plain, separate = bundle.load(given.plain), bundle.load(given.separate)
    entries = {entry.name: entry for entry in separate.manifest.model.adapters}
    if not entries:
        raise UsageError(f"{given.separate} has no adapters: build it with `adapters:` in the recipe")
    name = given.adapter or next(iter(entries))
    options = EngineOptions(given.prompt + given.new, given.threads, prefix_caches=0)
    with closing(engine_of(plain, options)) as one, closing(engine_of(separate, options)) as other:
        found = measure(one, other, name, given.rounds, given.prompt, given.new)
    found |= {"adapter": name, "rank": entries[name].rank, "adapter_bytes": entries[name].bytes}
    found |= {"environment": environment(), "plain_digest": plain.digest, "separate_digest": separate.digest}
    if given.json:
        print(json.dumps(found))
    else:
        for line in table(found):
            print(line)
    return 0


def engine_of(loaded: bundle.Bundle, options: EngineOptions) -> WorkerEngine:
    model = loaded.manifest.model
    adapters = {entry.name: loaded.path / entry.path for entry in model.adapters}
    return WorkerEngine(loaded.path / model.path, bundle.chat_template(loaded), (), options, adapters=adapters)


def measure(
    plain: WorkerEngine, separate: WorkerEngine, adapter: str, rounds: int, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """Medians by side and rate, ratios of medians, and every single figure."""
    sides = {"plain": (plain, None), "separate": (separate, None), "active": (separate, adapter)}
    ids = plain.encode(TEXT * (prompt_tokens // 8 + 1))[:prompt_tokens]
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(-1, rounds):  # the first round loads and warms up
        for side in _turns(number):
            engine, name = sides[side]
            session = engine.start(ids, Sampling(max_tokens=new_tokens), adapter=name)
            for _ in session:
                pass
            stats = session.stats
            if stats.completion_tokens < 2:
                raise UsageError(f"{side}: the model ended at once; take another --prompt")
            rates = (stats.prompt_tokens / stats.ttft_sec, stats.decode_tok_per_sec)
            row = dict(zip(RATES, rates, strict=True)) | {"new_tokens": stats.completion_tokens}
            if number >= 0:
                rows[side].append(row)
    medians = {side: {rate: statistics.median(row[rate] for row in rows[side]) for rate in RATES} for side in SIDES}
    ratios = {
        f"{one}_over_{other}": {rate: medians[one][rate] / medians[other][rate] for rate in RATES}
        for one, other in RATIOS
    }
    shape = {"rounds": rounds, "prompt_tokens": len(ids), "new_tokens": new_tokens}
    return {**shape, "medians": medians, "ratios": ratios, "rows": rows}


def _turns(number: int) -> Iterator[str]:
    """The sides, another one first each round."""
    for offset in range(len(SIDES)):
        yield SIDES[(number + offset) % len(SIDES)]


def table(found: dict[str, Any]) -> Iterator[str]:
    yield f"{'tokens per second':24}" + "".join(f"{rate.split('_')[0]:>10}" for rate in RATES)
    for side, row in found["medians"].items():
        yield f"{side:24}" + "".join(f"{row[rate]:10.1f}" for rate in RATES)
    for name, row in found["ratios"].items():
        yield f"{name.replace('_over_', ' / '):24}" + "".join(f"{row[rate]:10.3f}" for rate in RATES)
    yield f"adapter {found['adapter']}: rank {found['rank']}, {found['adapter_bytes'] / 2**20:.1f} MiB"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeError as error:
        sys.exit(f"error: {error}")
