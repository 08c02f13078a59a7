"""The process that brings the index up to date for the daemon: when nothing else wants the processor, and then it ends.

Run as `python -m edge.server.indexer JOB`, a JSON object; prints one JSON object. Everything that it writes is in
transactions, so it can be killed at any point and run again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.process import die_with


def main(job: dict[str, Any]) -> None:
    """Do one job; the report goes to stdout.

    `job`: `parent` (process id), `bundle`, `index` (paths), `config` (YAML), and `add` and `remove` (absolute paths),
    with `prune` to remove what is gone; or `root` (a box) and `seconds`, to embed for its release that waits.
    """
    die_with(job["parent"])
    _stand_back()
    try:
        report = _advance(job) if "root" in job else _run(job)
    except EdgeError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(report) + "\n")


def _run(job: dict[str, Any]) -> dict[str, Any]:
    from edge.box import Box
    from edge.config import EdgeConfig, parse
    from edge.ingest.index import ingest
    from edge.store.upkeep import compact_where_it_pays

    config = parse(EdgeConfig, job["config"], "the configuration")
    with Box(Path(job["bundle"]), Path(job["index"]), config) as box:
        settings = box.ingest_config()
        store = box.open_store(create=True)
        removed = store.remove(_sources(store.known(), job["remove"])) if job["remove"] else 0
        found: dict[str, Any] = {"failed": []}
        if job["add"]:
            paths, prune = [Path(path) for path in job["add"]], job.get("prune", False)
            found = dataclasses.asdict(ingest(paths, store, box.embedder, settings, prune=prune))
        compact_where_it_pays(store)
        return found | {"removed": removed}


def _advance(job: dict[str, Any]) -> dict[str, Any]:
    from edge.config import EdgeConfig, parse
    from edge.deploy.reindex import advance, finish

    root = Path(job["root"])
    step = advance(root, parse(EdgeConfig, job["config"], "the configuration"), seconds=job["seconds"])
    done = finish(root) if step.is_whole else None
    report = {"target": step.target, "done": step.done, "total": step.total}
    return report if done is None else report | {"served": done[0], "notes": done[1]}


def _sources(known: Iterable[str], paths: Sequence[str]) -> list[str]:
    """The documents that come from files: a database has one for each of its tables."""
    wanted = set(paths)
    return [source for source in known if source in wanted or source.rpartition("#")[0] in wanted]


def _stand_back() -> None:
    """Run only when no other process wants to: an answer's tokens come first."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:  # not permitted here
        os.nice(19)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
