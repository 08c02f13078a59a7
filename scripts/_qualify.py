"""The long runs of scripts/qualify, each written down as one dated JSON file with its environment inside.

The file is written anew after each SQuAD file, so what is done is not lost when the rest is interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _environment import ROOT, environment

from edge.files import write_atomic


class Failed(Exception):
    """A measuring script ended with this exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} ended with exit code {code}")
        self.code = code


def retrieval(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for file in arguments.files:
        yield _script("eval_retrieval.py", str(file), *_bundle(arguments))


def answers(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    more = ["--seed", str(arguments.seed), "--resume"]
    more += ["--limit", str(arguments.limit)] if arguments.limit else []
    for file in arguments.files:
        print(file.name, file=sys.stderr)
        yield _script("eval_answers.py", str(file), *more, *_bundle(arguments))


def ingest(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield _killed(arguments, "test_ingest_kill.py")


def deploy(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield {"run": "install", **_killed(arguments, "test_install.py", "-k", "killed")}
    yield {"run": "delta", **_killed(arguments, "test_delta_kill.py")}


def architectures(_: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "architectures.json"
        variables = {"EDGE_ARCHITECTURES": "all", "EDGE_ARCHITECTURES_REPORT": str(said)}
        started = time.monotonic()
        call = [sys.executable, "-m", "pytest", "-q", "tests/optimize/test_architectures.py"]
        done = subprocess.run(call, cwd=ROOT, env={**os.environ, **variables}, stdout=sys.stderr, check=False)
        seconds = round(time.monotonic() - started, 1)
        found = json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}
    names = ("transformers", "torch", "olive-ai", "onnxruntime", "onnxruntime-genai")
    versions = {name: importlib.metadata.version(name) for name in names}
    yield {"passed": done.returncode == 0, "seconds": seconds, "versions": versions, "architectures": found}


def npu(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if arguments.bundle is None:
        raise SystemExit("npu needs --bundle DIR, of `edge optimize run npu-qnn --out DIR`")
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "npu.json"
        variables = {"EDGE_NPU_BUNDLE": str(arguments.bundle.absolute()), "EDGE_NPU_REPORT": str(said)}
        started = time.monotonic()
        call = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/process/test_npu.py"]
        done = subprocess.run(call, cwd=ROOT, env={**os.environ, **variables}, stdout=sys.stderr, check=False)
        found = json.loads(said.read_text(encoding="utf-8")) if said.exists() else []
    seconds = round(time.monotonic() - started, 1)
    yield {"passed": done.returncode == 0 and bool(found), "seconds": seconds, "questions": found}


def _killed(arguments: argparse.Namespace, test: str, *more: str) -> dict[str, Any]:
    """A test that kills processes, with more points than among the other tests."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "killed.json"
        variables = {"EDGE_KILL_POINTS": str(arguments.points), "EDGE_KILL_SEED": str(arguments.seed)}
        started = time.monotonic()
        call = [sys.executable, "-m", "pytest", "-q", "-s", f"tests/process/{test}", *more]
        variables["EDGE_KILL_REPORT"] = str(said)
        done = subprocess.run(call, cwd=ROOT, env={**os.environ, **variables}, stdout=sys.stderr, check=False)
        seconds = round(time.monotonic() - started, 1)
        killed = json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}
    return {"points": arguments.points, "passed": done.returncode == 0, "seconds": seconds, **killed}


def daemon(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for what in (
        ("load", "--clients", "32", "--limit", "256MiB", "--seconds", str(arguments.seconds)),
        ("kills", "--points", "50"),
        ("hostile", "--requests", "10000"),
        ("latency", "--rounds", "5"),
    ):
        print(what[0], file=sys.stderr)
        yield {"run": what[0], **_script("measure_daemon.py", *what, "--seed", str(arguments.seed), may_fail=True)}


def _bundle(arguments: argparse.Namespace) -> list[str]:
    return ["--bundle", str(arguments.bundle)] if arguments.bundle else []


def _script(name: str, *arguments: str, may_fail: bool = False) -> dict[str, Any]:
    """What a script prints; with `may_fail` also where its exit code says that a figure was missed."""
    call = [sys.executable, str(ROOT / "scripts" / name), *arguments, "--json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0 and not (may_fail and done.returncode == 1 and done.stdout.strip()):
        raise Failed(name, done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def unused(folder: Path, stem: str) -> Path:
    """A file name that is not taken: a second run on one day writes beside the first."""
    names = (f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    runs = {"retrieval": retrieval, "answers": answers, "ingest": ingest, "daemon": daemon, "deploy": deploy}
    runs |= {"architectures": architectures, "npu": npu}
    parser.add_argument("name", choices=runs)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the result")
    arguments = parser.parse_args()
    if arguments.name not in ("architectures", "ingest", "daemon", "deploy", "npu") and not arguments.files:
        parser.error(f"{arguments.name} needs at least one SQuAD file")
    made_on = environment()  # before the runs, so that the file itself is not what makes the checkout dirty
    out = unused(arguments.out, f"{made_on['date']}-{arguments.name}")
    results: list[dict[str, Any]] = []
    try:
        for result in runs[arguments.name](arguments):
            results.append(result)
            found = {"environment": made_on, "seed": arguments.seed, "results": results}
            write_atomic(out, json.dumps(found, indent=2) + "\n")
    except (Failed, KeyboardInterrupt) as error:
        kept = f"results of {len(results)} file(s) are in {out}" if results else "no file was finished"
        why = str(error) or "interrupted (of answers, nothing is lost: the same command goes on)"
        print(f"{why}; {kept}", file=sys.stderr)
        return error.code if isinstance(error, Failed) else 130
    print(out)
    return 0 if all(result.get("passed", True) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
