"""How much private memory a finished part takes: loaded once in a fresh process, as the box would load it.

    python -m optimize.measure model FOLDER RESULT.json
    python -m optimize.measure embedder FOLDER RESULT.json
    python -m optimize.measure reranker FOLDER RESULT.json

Private is `RssAnon` of /proc/self/status: heap and other pages that no file backs. What the libraries take when they
are imported is subtracted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge import machine
from edge.files import write_atomic
from optimize import child

STEP_BYTES = 4 * 2**20
"""Figures are rounded up to this: runs differ by less, so that the same input gives the same manifest."""


def measure(kind: str, folder: Path, scratch: Path, log_name: str) -> int:
    """Private bytes that loading the `model`, `embedder` or `reranker` in `folder` adds, rounded up to `STEP_BYTES`.

    :raises BuildError: it cannot be loaded; names the log.
    """
    result = scratch / f"{kind}.json"
    what = f"Measuring the memory of the {kind}"
    child.run("optimize.measure", [kind, str(folder), str(result)], what, log_name, scratch)
    private = int(json.loads(result.read_text(encoding="utf-8"))["private_bytes"])
    return -(-private // STEP_BYTES) * STEP_BYTES


def _model(folder: Path) -> int:
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}))
    before = machine.private_bytes()
    model = og.Model(config)
    after = machine.private_bytes()
    del model
    return after - before


def _main(kind: str, folder: Path, result: Path) -> None:
    child.die_with_parent()
    child.quiet()
    if kind == "model":
        added = _model(folder)
    elif kind == "embedder":
        from optimize import embedder

        added = embedder.private_bytes(folder)
    else:
        from optimize import reranker

        added = reranker.private_bytes(folder)
    write_atomic(result, json.dumps({"private_bytes": added}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
