"""Retrieval in a process of its own, for where memory is short: all that it took goes back before the model needs it.

Run as `python -m edge.aside` by `run_aside`, which is the other side of its pipes: one pickled request on stdin, one
pickled answer on stdout, between two processes of this package and this user. With the answer come the files that the
process has mapped. The page cache would keep them, as used a moment ago, before the model's weights.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.config import EdgeConfig
from edge.errors import EdgeError, EngineError
from edge.mapped import let_go, mapped_files
from edge.process import die_with

_TIMEOUT_SEC = 300.0
_ONE = threading.Lock()  # the memory budget holds one such process


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a method of `edge.box.Box`, and everything that it works with."""

    parent: int  # process id
    bundle: Path
    index: Path
    config: EdgeConfig
    call: Literal["retrieve", "embed", "rerank"]
    arguments: Mapping[str, Any]


def run_aside(request: Request) -> Any:
    """What the method returns, in a process that has ended when this returns. One runs at a time.

    :raises EdgeError: what the method raises there.
    :raises EngineError: the process ended before it answered.
    """
    with _ONE:
        return _run(request)


def _run(request: Request) -> Any:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge.aside"],
            input=pickle.dumps(request),
            capture_output=True,
            timeout=_TIMEOUT_SEC,
            check=False,
            process_group=0,  # Ctrl-C is for this process, which then ends that one
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise EngineError(f"the documents could not be searched: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineError(f"the process that searches the documents ended: {said[-1] if said else done.returncode}")
    answer, files = pickle.loads(done.stdout)
    let_go(files)
    if isinstance(answer, EdgeError):
        raise answer
    return answer


def main() -> None:
    """Answer the one request on stdin."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the answer
    request: Request = pickle.loads(sys.stdin.buffer.read())
    die_with(request.parent)
    from edge.box import Box

    answer: Any
    files: list[str] = []
    try:
        with Box(request.bundle, request.index, request.config) as box:
            answer = getattr(box, request.call)(**request.arguments)
            files = mapped_files()
    except EdgeError as error:
        answer = error
    with answers:
        pickle.dump((answer, files), answers)


if __name__ == "__main__":
    main()
