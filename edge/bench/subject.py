"""Our side as a process of its own that generates once and ends: what `edge` takes for a bare generation, no more.

Run as `python -m edge.bench.subject BUNDLE CONFIG` with {"token_ids": [...], "max_tokens": N} on stdin; its memory is
watched from outside, so nothing of the benchmark itself is counted. Prints how many tokens there were.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge.box import Box
from edge.engine.base import Sampling
from edge.errors import EdgeError


def main() -> int:
    """Generate; the exit code is 1 where that fails."""
    bundle, config = (Path(argument) for argument in sys.argv[1:3])
    request = json.load(sys.stdin)
    try:
        with Box.open(bundle=bundle, index=None, config=config) as box:
            box.admit(last=True)
            session = box.engine.start(request["token_ids"], Sampling(max_tokens=request["max_tokens"]))
            count = sum(1 for _ in session)
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{count}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
