#!/usr/bin/env python3
"""What the daemon holds under load, faults and abuse; `--json` prints one object.

    scripts/measure_daemon.py load --clients 32 --seconds 300 --limit 256MiB    # in a memory cgroup of that size
    scripts/measure_daemon.py kills --points 50          # the model's process killed in the middle of streams
    scripts/measure_daemon.py hostile --requests 10000   # malformed requests over raw sockets
    scripts/measure_daemon.py latency --rounds 3         # time between tokens, idle and beside an ingest

Works on bundle and index of the home folder, of which the index is copied. Loopback only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _cgroup import MemoryCgroup, NoCgroup
from _daemon import Daemon, Reply, engine_pid, tree
from _hostile import hostile_requests, send_raw, slow_loris

from edge.machine import status_bytes
from edge.sizes import mib, parse_size

QUESTIONS = (
    "How long is the reset button held?",
    "Which ports does the gateway listen on?",
    "What does the blinking red lamp mean?",
    "Who signed the commissioning protocol?",
)
WORDS = "Tell me a story about a lighthouse keeper and her dog."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"load": load, "kills": kills, "hostile": hostile, "latency": latency}
    parser.add_argument("what", choices=runs)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--limit", type=parse_size, help="memory limit of the daemon's cgroup, such as 256MiB")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-daemon-") as name:
        try:
            result = runs[options.what](options, _home(Path(name)))
        except NoCgroup as error:
            print(f"no memory cgroup can be made here: {error}", file=sys.stderr)
            return 3
    print(json.dumps(result) if options.json else _table(result))
    return 0 if result["passed"] else 1


def _home(folder: Path) -> dict[str, str]:
    """An environment whose home folder has the same bundle, and a copy of the index."""
    from edge.box import Box, default_bundle
    from edge.files import home

    (folder / "home").mkdir()
    (folder / "home" / "bundle").symlink_to(default_bundle().resolve())
    shutil.copy(home() / "index.db", folder / "home" / "index.db")
    with Box.open(bundle=None, index=None, config=None) as box:
        _ = box.model_folder  # prepared for this CPU, as an installation does it
    return {**os.environ, "EDGE_HOME": str(folder / "home")}


# -- load ---------------------------------------------------------------------------------------------------------


def load(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Clients that ask without a pause: what fails, what it takes of memory, and whether that grows."""
    if options.limit is None:
        with Daemon(environment=environment) as daemon:
            return _load(options, daemon) | {"limit_bytes": None}
    with MemoryCgroup(options.limit) as cgroup:
        with Daemon(environment=environment, command=cgroup.command([])) as daemon:
            found = _load(options, daemon)
        kills = cgroup.oom_kills
    return found | {"limit_bytes": options.limit, "oom_kills": kills, "passed": found["passed"] and not kills}


def _load(options: argparse.Namespace, daemon: Daemon) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    until = time.monotonic() + options.seconds
    threads = [
        threading.Thread(
            target=_client, args=(daemon, until, random.Random(f"{options.seed}/{number}"), statuses, tokens)
        )
        for number in range(options.clients)
    ]
    for thread in threads:
        thread.start()
    series: list[tuple[float, dict[int, int]]] = []
    while any(thread.is_alive() for thread in threads):
        series.append((time.monotonic(), _private(daemon.pid)))
        time.sleep(1.0)
    failures = {kind: count for kind, count in statuses.items() if kind not in ("200", "429")}
    half = [point for point in series if until - options.seconds / 2 <= point[0] <= until]
    staying = set.intersection(*(set(sizes) for _, sizes in half)) if half else set()
    slope = _slope([(at, sum(sizes[pid] for pid in staying)) for at, sizes in half])
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "answered": statuses["200"],
        "refused_429": statuses["429"],
        "failures": failures,
        "completion_tok_per_sec": round(tokens["completion"] / options.seconds, 1),
        "private_peak_bytes": max(sum(sizes.values()) for _, sizes in series),
        "processes_that_stay": len(staying),
        "private_slope_bytes_per_min": round(slope),
        "is_alive": daemon.process.poll() is None,
        "passed": not failures
        and statuses["200"] > 0
        and len(staying) == 2
        and abs(slope) < 2**20
        and daemon.process.poll() is None,
    }


def _client(daemon: Daemon, until: float, rng: random.Random, statuses: Counter[str], tokens: Counter[str]) -> None:
    while time.monotonic() < until:
        is_rag = rng.random() < 0.5
        asked: dict[str, Any] = {
            "model": "edge+rag" if is_rag else "edge",
            "messages": [{"role": "user", "content": rng.choice(QUESTIONS) if is_rag else WORDS}],
            "max_tokens": 24,
            "stream_options": {"include_usage": True},
        }
        try:
            last: Any = None
            for _, event in daemon.stream(asked):
                last = event
            ended = last is not None and "usage" in last
            statuses["200" if ended else f"broken: {str(last)[:120]}"] += 1
            tokens["completion"] += last["usage"]["completion_tokens"] if ended else 0
        except Reply as reply:
            statuses[str(reply.status) if reply.status == 429 else f"{reply.status}: {str(reply)[:300]}"] += 1
            if reply.status == 429:
                time.sleep(min(2.0, float(reply.headers.get("retry-after", "1"))))
        except OSError as error:
            statuses[f"{type(error).__name__}: {error}"] += 1


def _private(pid: int) -> dict[int, int]:
    """Bytes by process id, of the daemon and what it started. Those that search come and go within a second: they
    count for the peak, and say nothing of growth."""
    sizes = {}
    for one in tree(pid):
        try:
            sizes[one] = status_bytes("RssAnon", one)
        except OSError:
            continue
    return sizes


def _slope(points: list[tuple[float, int]]) -> float:
    """Of a straight line through the points, bytes a minute."""
    if len(points) < 3:
        return 0.0
    times, sizes = [at for at, _ in points], [size for _, size in points]
    return statistics.linear_regression(times, sizes).slope * 60


# -- kills --------------------------------------------------------------------------------------------------------


def kills(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Kill the model's process at a random moment of a stream: its client is told, and the next request works."""
    rng = random.Random(options.seed)
    told = worked = 0
    problems: list[str] = []
    with Daemon(environment=environment) as daemon:
        _ask(daemon)
        for _ in range(options.points):
            error = _killed(daemon, rng)
            if "message" in error:
                told += 1
            else:
                problems.append("the stream ended as if nothing had happened")
            try:
                _ask(daemon)
                worked += 1
            except (Reply, OSError) as failed:
                problems.append(f"the next request: {failed}")
        is_alive = daemon.process.poll() is None
    return {
        "points": options.points, "told": told, "next_request_worked": worked, "problems": problems[:5],
        "is_alive": is_alive, "passed": told == worked == options.points and is_alive,
    }  # fmt: skip


def _ask(daemon: Daemon) -> Any:
    return daemon.call("POST", "/v1/chat/completions", {"model": "edge", "max_tokens": 4, "messages": _words()})


def _words() -> list[dict[str, str]]:
    return [{"role": "user", "content": WORDS}]


def _killed(daemon: Daemon, rng: random.Random) -> dict[str, Any]:
    """The error that a stream ends with whose model is killed after some events; empty where it does not say one.

    An answer that is over before its moment has come is asked again, with another seed.
    """
    while True:
        last: Any = None
        is_killed, after = False, rng.randrange(1, 60)
        asked = {"model": "edge", "max_tokens": 400, "temperature": 1.0, "seed": after, "messages": _words()}
        for number, (_, event) in enumerate(daemon.stream(asked)):
            last = event
            if number == after and (pid := engine_pid(daemon.pid)):
                os.kill(pid, 9)
                is_killed = "usage" not in event and not event["choices"][0].get("finish_reason")
        if is_killed:
            error: dict[str, Any] = last.get("error") or {}
            return error


# -- hostile ------------------------------------------------------------------------------------------------------


def hostile(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Requests that no client would send: none may crash the daemon, or be its own fault (5xx but 501 and 503)."""
    statuses: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    with Daemon(environment=environment) as daemon:
        for kind, raw in hostile_requests(options.seed, options.requests):
            status = send_raw(daemon.host, daemon.port, raw)
            statuses[status] += 1
            if status.startswith("5") and status not in ("501", "503"):
                bad.append({"kind": kind, "status": status, "request": raw[:200].decode("latin-1")})
        held = slow_loris(daemon.host, daemon.port, connections=20)
        lives = daemon.call("GET", "/healthz")["status"] == "ok"
        bugs = [line for line in daemon.log if line.get("event") == "bug" or "Traceback" in line.get("text", "")]
        code = daemon.stop()
    return {
        "requests": options.requests, "statuses": dict(statuses), "faults": bad[:5], "bugs": bugs[:3],
        "slow_loris_longest_sec": held, "exit_code": code,
        "passed": not bad and not bugs and lives and code == 0 and held < 20,
    }  # fmt: skip


# -- latency ------------------------------------------------------------------------------------------------------


def latency(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """Time between tokens while nothing else happens, and while documents are ingested; in turns."""
    idle: list[float] = []
    beside: list[float] = []
    ingested = 0
    with Daemon(environment=environment) as daemon:
        _ask(daemon)
        for number in range(options.rounds):
            idle += _gaps(daemon, number)
            for name in range(6):
                daemon.call("PUT", f"/v1/index/documents/r{number}-{name}.txt", _document(f"{number}/{name}"))
            time.sleep(1.5)  # until the indexer works
            for again in range(3):
                beside += _gaps(daemon, 100 + 10 * number + again)
            ingested += _until_ready(daemon)
    p95 = {name: statistics.quantiles(gaps, n=20)[18] for name, gaps in (("idle", idle), ("beside", beside))}
    ratio = p95["beside"] / p95["idle"]
    return {
        "rounds": options.rounds, "documents": ingested, "idle_p95_sec": round(p95["idle"], 5),
        "beside_ingest_p95_sec": round(p95["beside"], 5), "ratio": round(ratio, 3), "passed": ratio <= 1.5,
    }  # fmt: skip


def _gaps(daemon: Daemon, seed: int) -> list[float]:
    """Seconds between the tokens of one answer."""
    asked = {"model": "edge", "max_tokens": 150, "temperature": 1.0, "seed": seed, "messages": _words()}
    times = [
        at for at, event in daemon.stream(asked) if event["choices"] and event["choices"][0]["delta"].get("content")
    ]
    return [after - before for before, after in itertools.pairwise(times)]


def _document(seed: str) -> bytes:
    rng = random.Random(seed)
    words = [f"{a}{b}" for a in ("lo", "mar", "ten", "ski", "var", "ona") for b in ("ra", "mi", "do", "nel", "st")]
    lines = [" ".join(rng.choices(words, k=14)).capitalize() + "." for _ in range(400)]
    return "\n\n".join(lines).encode()


def _until_ready(daemon: Daemon) -> int:
    while True:
        listed = daemon.call("GET", "/v1/index/documents")["data"]
        if all(one["status"] in ("ready", "failed") for one in listed):
            return len(listed)
        time.sleep(0.5)


def _table(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{key:<30}{mib(value) if key.endswith('_bytes') and value is not None else value}"
        for key, value in result.items()
    )


if __name__ == "__main__":
    sys.exit(main())
