"""The long runs of scripts/qualify, each written down as one dated JSON file with its environment inside."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _environment import ROOT, environment

from edge.files import write_atomic


def retrieval(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    return [_script("eval_retrieval.py", str(file)) for file in arguments.files]


def answers(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    more = ["--seed", str(arguments.seed)] + (["--limit", str(arguments.limit)] if arguments.limit else [])
    return [_script("eval_answers.py", str(file), *more) for file in arguments.files]


def ingest(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    variables = {"EDGE_KILL_POINTS": str(arguments.points), "EDGE_KILL_SEED": str(arguments.seed)}
    started = time.monotonic()
    call = [sys.executable, "-m", "pytest", "-q", "tests/process/test_ingest_kill.py"]
    done = subprocess.run(call, cwd=ROOT, env={**os.environ, **variables}, check=False)
    seconds = round(time.monotonic() - started, 1)
    return [{"points": arguments.points, "passed": done.returncode == 0, "seconds": seconds}]


def _script(name: str, *arguments: str) -> dict[str, Any]:
    call = [sys.executable, str(ROOT / "scripts" / name), *arguments, "--json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    runs = {"retrieval": retrieval, "answers": answers, "ingest": ingest}
    parser.add_argument("name", choices=runs)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--points", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.name != "ingest" and not arguments.files:
        parser.error(f"{arguments.name} needs at least one SQuAD file")
    made_on = environment()  # before the runs, so that the file itself is not what makes the checkout dirty
    results = runs[arguments.name](arguments)
    out = ROOT / "docs" / "benchmarks" / f"{made_on['date']}-{arguments.name}.json"
    write_atomic(out, json.dumps({"environment": made_on, "seed": arguments.seed, "results": results}, indent=2) + "\n")
    print(out.relative_to(ROOT))
    return 0 if all(result.get("passed", True) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
