"""`kill -9` at random points of a delta being applied, and of an index being made for a release that waits.

Whoever reads meanwhile, and whoever comes afterwards, sees the old documents or the new ones, never some of each.
EDGE_KILL_POINTS and EDGE_KILL_SEED make it a long run (scripts/qualify deploy), EDGE_KILL_REPORT names a file for it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.deploy.delta import pack
from edge.store.chunks import Store
from edge.store.contents import digest_of, state_of
from edge.store.search import Searcher
from edge.store.upkeep import problems
from tests.edge.ingest.indexes import open_index, put

ROOT = Path(__file__).resolve().parents[2]
POINTS = int(os.environ.get("EDGE_KILL_POINTS", "4"))
SEED = int(os.environ.get("EDGE_KILL_SEED", "4"))
DOCUMENTS = 40

# The process that is killed: the real application of a delta.
PROGRAM = """
import sys
from pathlib import Path
from edge.deploy.delta import Options, apply
from edge.store.chunks import Store

if __name__ == "__main__":
    file, index, root = map(Path, sys.argv[1:])
    with Store.open(index) as store:
        print("ready", flush=True)
        done = apply(file, store, root, Options(allow_unsigned=True))
        print("done", done.applied.was_applied, flush=True)
"""


def fill(path: Path, version: str, numbers: range) -> None:
    with open_index(path) as store:
        store.remove(list(store.known()))
        for number in numbers:
            put(store, f"/d/{number}.txt", f"document {number} of {version}, and more. " * 12)


@pytest.mark.process
def test_killed_anywhere_an_index_is_old_or_new(tmp_path: Path) -> None:
    rng, program = random.Random(SEED), tmp_path / "program.py"
    program.write_text(PROGRAM)
    old, new, box, file = (tmp_path / name for name in ("old.db", "new.db", "box/index.db", "x.delta"))
    box.parent.mkdir()
    fill(old, "version-a", range(DOCUMENTS))
    shutil.copy(old, new)
    fill(new, "version-b", range(DOCUMENTS // 4, DOCUMENTS + 5))
    with Store.open(old) as before, Store.open(new) as after:
        head = pack(before, after, file)
    command = [sys.executable, str(program), str(file), str(box), str(box.parent)]
    seconds, killed, became_new = 0.0, 0, 0
    for point in range(POINTS + 1):
        for side in ("-wal", "-shm"):
            box.with_name(box.name + side).unlink(missing_ok=True)
        shutil.copy(old, box)
        with Store.open(box) as reader:
            started, was_killed, seen = run(command, reader, rng.uniform(0, seconds) if point else None)
            if not was_killed:  # the first is left to end; the shortest counts, however busy the machine was at first
                seconds = min(seconds or 60.0, time.monotonic() - started)
        assert seen <= {("version-a", DOCUMENTS), ("version-b", DOCUMENTS - DOCUMENTS // 4 + 5)}, seen
        killed += was_killed
        with Store.open(box) as store:
            state = digest_of(state_of(store))
            assert state in (head.base, head.result)
            assert point or state == head.result
            assert problems(store) == []
        became_new += state == head.result
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"done {state == head.result}"
        with Store.open(box) as store:
            assert digest_of(state_of(store)) == head.result
    assert killed >= POINTS // 2, "the process was too quick to be killed: the test says little"
    if report := os.environ.get("EDGE_KILL_REPORT"):
        figures = {"killed_while_running": killed, "new_afterwards": became_new - 1, "apply_sec": round(seconds, 3)}
        Path(report).write_text(json.dumps(figures), encoding="utf-8")


def run(command: list[str], reader: Store, delay_sec: float | None) -> tuple[float, bool, set[tuple[str, int]]]:
    """Start it, read all the time, and kill it after the delay: when it was ready, whether it was at work, and what was
    seen: the version of every document, and how many there were."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    started, seen = time.monotonic(), set[tuple[str, int]]()
    while process.poll() is None and (delay_sec is None or time.monotonic() - started < delay_sec):
        with Searcher(reader).snapshot():
            sources = list(reader.known())
            words = {str(reader.document(source)).partition(" of ")[2].partition(",")[0] for source in sources}
        assert len(words) == 1, words
        seen.add((words.pop(), len(sources)))
    process.kill()
    return started, "done" not in process.communicate()[0], seen


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
