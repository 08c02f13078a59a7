"""Build every candidate of quantization, measure what it loses and costs, and write the table down.

    python scripts/compare_candidates.py [--out docs/benchmarks] [--only NAME ...]

Quality comes from the quality gate (optimize/evaluate.py), sizes from the files, private memory and speed from fresh
processes on two threads. The candidates are timed in turns, one round after the other, so that a disturbance hits all
of them; figures are medians. Writes docs/benchmarks/<date>-quantization.json and prints the same as a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _environment import environment

from edge.config import to_plain
from edge.files import write_atomic
from optimize import child, measure
from optimize.build import Build
from optimize.olive_runner import TOOLS
from optimize.recipe import DEFAULT, ModelRecipe, load_recipe
from optimize.stages import tools

HEAD8 = {"last_matmul": "int8"}
MIXED8 = {"last_matmul": "int8", "mixed_layers": "int8"}
CANDIDATES: dict[str, dict[str, Any]] = {
    "int8": {"precision": "int8"},
    "int8, fp32 embedding": {"precision": "int8", "shared_embeddings": False},
    "int8, int8 KV cache": {"precision": "int8", "kv_cache": "int8"},
    "int8 block 64": {"precision": "int8", "block_size": 64},
    "int4": {"precision": "int4"},
    "int4 k_quant block 16": {"precision": "int4", "algorithm": "k_quant", "block_size": 16},
    "int4 k_quant, int8 head": {"precision": "int4", "algorithm": "k_quant", "mixed_precision": HEAD8},
    "int4 k_quant, int8 head and layers": {"precision": "int4", "algorithm": "k_quant", "mixed_precision": MIXED8},
    "int4 k_quant block 16, int8 head and layers": {
        "precision": "int4",
        "algorithm": "k_quant",
        "block_size": 16,
        "mixed_precision": MIXED8,
    },
}
PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 256, 128, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks")
    parser.add_argument("--only", nargs="*", choices=CANDIDATES, default=list(CANDIDATES))
    given = parser.parse_args()
    child.quiet()
    made_on = environment() | {"tools": tools(*TOOLS)}  # before the runs: the file itself makes the checkout dirty
    build = Build(load_recipe(DEFAULT), lambda stage, state: print(f"  {stage}: {state}", file=sys.stderr))
    parent = build.parent()
    rows, folders = {}, {}
    for name in given.only:
        print(name, file=sys.stderr)
        recipe = replace(ModelRecipe(**CANDIDATES[name]), context_tokens=build.recipe.model.context_tokens)
        started = time.monotonic()
        model = build.model(parent, recipe)
        built_sec = time.monotonic() - started
        with tempfile.TemporaryDirectory() as scratch:
            private = measure.measure("model", model.path, Path(scratch), "compare-memory")
        folders[name] = model.path
        rows[name] = {
            "recipe": to_plain(recipe),
            "size_bytes": sum((model.path / file).stat().st_size for file in model.files),
            **to_plain(build.gate(parent, model)),
            "private_bytes": private,
            "build_sec": None if model.cached else round(built_sec, 1),
        }
    for name, figures in timed(folders).items():
        rows[name] |= figures
    target = given.out / f"{made_on['date']}-quantization.json"
    write_atomic(target, json.dumps({"environment": made_on, "rows": rows}, indent=2) + "\n")
    print(table(rows))
    print(target, file=sys.stderr)


def timed(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Medians over rounds that go through all candidates in turn."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for _ in range(ROUNDS):
        for name, folder in folders.items():
            with tempfile.TemporaryDirectory() as scratch:
                runs[name].append(_speed(folder, Path(scratch)))
    return {
        name: {key: round(statistics.median(run[key] for run in several), 1) for key in several[0]}
        for name, several in runs.items()
    }


def _speed(folder: Path, scratch: Path) -> dict[str, float]:
    result = scratch / "speed.json"
    arguments = [str(folder), str(PROMPT_TOKENS), str(NEW_TOKENS), str(result)]
    child.run("optimize.search.speed", arguments, "measuring the speed", "compare-speed", scratch)
    found: dict[str, float] = json.loads(result.read_text())
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| recipe | MB | KL, nats | perplexity | top-1 | greedy | prefill tok/s | decode tok/s "
        "| private MiB | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['size_bytes'] / 1e6:.0f} | {row['kl_nats']:.4f} | x{row['perplexity_ratio']:.3f} "
            f"| {row['top1_agreement']:.3f} | {row['greedy_agreement']:.2f} | {row['prefill_tok_per_sec']:.0f} "
            f"| {row['decode_tok_per_sec']:.0f} | {row['private_bytes'] / 2**20:.0f} "
            f"| {row['rss_peak_bytes'] / 2**20:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
