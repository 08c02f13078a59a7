#!/usr/bin/env python3
"""Answer inside a hard memory limit: is anything killed, are weights read again, and what speed is left?

    scripts/measure_limit.py 320MiB --rounds 3 --without --index FILE

Makes a memory cgroup (v1 or v2), copies bundle and prepared weights so that their pages are charged to it, and there
asks the longest question that fits, and reads a prompt of the full context; the same without a limit in turns.
Pages of the Python interpreter and of libraries that other processes map are charged to those.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _cgroup import MemoryCgroup, NoCgroup, evict

from edge.sizes import mib, parse_size

WARM_TOKENS = 8  # before the steady state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("limit", type=parse_size, help="such as 256MiB")
    parser.add_argument("--rounds", type=int, default=1, help="runs with and without the limit, in turns")
    parser.add_argument("--index", type=Path, help="the index to ask  [default: index.db in the home folder]")
    parser.add_argument("--without", action="store_true", help="compare with runs without a limit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-limit-") as name:
        environment = _copy(Path(name), options.index)
        try:
            result = _measure(options.limit, options.rounds, options.without, Path(name), environment)
        except NoCgroup as error:
            print(f"no memory cgroup can be made here: {error}", file=sys.stderr)
            return 3
    print(json.dumps(result) if options.json else _table(result))
    return 0 if result["oom_kills"] == 0 and "error" not in result else 1


def _copy(folder: Path, index: Path | None) -> dict[str, str]:
    """Bundle, index and prepared weights in a folder of their own; returns the environment that points there."""
    from edge.box import Box
    from edge.files import cache, home

    with Box.open(bundle=None, index=None, config=None) as box:
        prepared = box.model_folder
        shutil.copytree(box.bundle_path.resolve(), folder / "home" / "bundle")
        shutil.copy(index or home() / "index.db", folder / "home" / "index.db")
    if prepared.is_relative_to(cache()):
        shutil.copytree(prepared, folder / "cache" / prepared.relative_to(cache()))
    (folder / "home" / "config.yaml").write_text("retrieve: {floor: 0.0}\n")
    return {**os.environ, "EDGE_HOME": str(folder / "home"), "EDGE_CACHE": str(folder / "cache")}


def _measure(limit: int, rounds: int, without: bool, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    inside: list[dict[str, Any]] = []
    outside: list[dict[str, Any]] = []
    kills = 0
    call = [sys.executable, __file__.replace("measure_limit", "_limited")]
    for _ in range(rounds):
        evict(folder)
        with MemoryCgroup(limit) as cgroup:
            done = cgroup.run(call, env=environment)
            kills += cgroup.oom_kills
        if done.returncode:
            return {"limit_bytes": limit, "oom_kills": kills, "error": done.stderr.strip()}
        inside.append(json.loads(done.stdout))
        if without:
            context = str(inside[-1]["context_tokens"])
            free = subprocess.run([*call, context], env=environment, capture_output=True, text=True, check=True)
            outside.append(json.loads(free.stdout))
    rate = statistics.median(run["decode_tok_per_sec"] for run in inside)
    result = {
        "limit_bytes": limit,
        "oom_kills": kills,
        "context_tokens": inside[0]["context_tokens"],
        "asked_prompt_tokens": inside[0]["asked_prompt_tokens"],
        "prompt_tokens": inside[0]["prompt_tokens"],
        "major_faults_per_token": max(run["major_faults_per_token"] for run in inside),
        "decode_tok_per_sec": rate,
        "private_peak_bytes": max(run["private_peak_bytes"] for run in inside),
        "notes": inside[0]["notes"],
    }
    if outside:
        free_rate = statistics.median(run["decode_tok_per_sec"] for run in outside)
        result |= {"decode_tok_per_sec_without_limit": free_rate, "decode_ratio": round(rate / free_rate, 3)}
    return result


def _table(result: dict[str, Any]) -> str:
    rows = [
        f"{key:<36}{mib(value) if key.endswith('_bytes') else value}" for key, value in result.items() if key != "notes"
    ]
    return "\n".join([*rows, *(f"note: {note}" for note in result.get("notes", []))])


if __name__ == "__main__":
    sys.exit(main())
