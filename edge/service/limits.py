"""How much memory the service gets: what the ledger of its bundle says, with an ingest beside the answers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from edge.box import Box
from edge.errors import BudgetExceeded, BundleError
from edge.sizes import mib

_STEP_BYTES = 16 * 2**20


def memory_max(box: Box) -> tuple[int, str]:
    """Bytes for `MemoryMax=`, and where they come from; at most what this machine has.

    Files that are mapped count in full, although the kernel could drop some: the limit is no saving.

    :raises BundleError: there is no bundle to go by; says what to do.
    :raises BudgetExceeded: this machine does not hold it.
    """
    from edge.budget import HEADROOM_MOST_BYTES, Use, fit
    from edge.server.backend import DAEMON_BYTES
    from edge.server.traces import TRACES_BYTES

    if not Path(box.bundle_path).exists():
        raise BundleError(
            f"{box.bundle_path}: there is no bundle yet, so its memory is not known: copy it there first, or give "
            "--memory-max"
        )
    box.serves = True
    config, parts, budget = box.config, box.parts, box.budget
    context = min(config.answer.context_tokens, box.bundle.manifest.model.context_tokens)
    prefixes = max(0, config.engine.prefix_caches - 1)
    wanted = Use(context, sessions=config.server.sessions, prefixes=prefixes, ingest=True)
    try:
        plan = fit(parts, budget, wanted)
    except BudgetExceeded:
        plan = fit(parts, budget, dataclasses.replace(wanted, ingest=False))
    beside = "an ingest beside it" if plan.use.ingest else "no room for an ingest beside it"
    packing = parts.parent.private_bytes + parts.interpreter_bytes + parts.preparing_bytes
    needed = max(plan.bytes, packing) + DAEMON_BYTES + HEADROOM_MOST_BYTES
    needed += TRACES_BYTES if config.server.traces is not None else 0
    size = min(math.ceil(needed / _STEP_BYTES) * _STEP_BYTES, budget.bytes)
    name = box.bundle.manifest.name
    return size, (
        f"{mib(size)}: {name} with a context of {plan.use.context_tokens} tokens, {plan.use.sessions} at a time, and "
        f"{beside}; see `edge plan`."
    )
