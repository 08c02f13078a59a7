"""The end of a language model: from its last hidden states to logits, as each architecture does it.

A product with the head's table, and then, where the architecture has it: a bias (Phi), a divisor (Granite), a soft cap
`cap * tanh(logits / cap)` (Gemma 2, arXiv:2408.00118, 2.2). What is kept of a parent is its hidden states and this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic

_TABLE, _BIAS, _REST = "head.npy", "head-bias.npy", "head.json"
_TOLERANCE = 1e-2  # of a logit


@dataclass(frozen=True)
class Projection:
    """Torch tensors."""

    table: Any  # float32 (vocabulary, hidden)
    bias: Any | None = None  # float32 (vocabulary,)
    divisor: float = 1.0
    cap: float | None = None

    def logits(self, states: Any) -> Any:
        """Hidden states, float32 (rows, hidden), to logits, float32 (rows, vocabulary)."""
        found = states @ self.table.T
        if self.bias is not None:
            found = found + self.bias
        if self.divisor != 1.0:
            found = found / self.divisor
        if self.cap is not None:
            found = self.cap * (found / self.cap).tanh()
        return found


def of_model(model: Any) -> Projection:
    """That of a transformers model."""
    head, config = model.get_output_embeddings(), model.config
    return Projection(
        table=head.weight.detach(),
        bias=None if head.bias is None else head.bias.detach(),
        divisor=float(getattr(config, "logits_scaling", None) or 1.0),
        cap=getattr(config, "final_logit_softcapping", None),
    )


def check(projection: Projection, states: Any, logits: Any) -> None:
    """Check that the model's own logits are what the projection makes of its hidden states.

    :raises BuildError: they are not.
    """
    if float((projection.logits(states) - logits).abs().max()) > _TOLERANCE:
        raise BuildError("the gate cannot compare this kind of model: how it makes its logits is not known")


def save(projection: Projection, out: Path) -> None:
    """Write it into `out`: the table, and beside it the rest where there is any."""
    import numpy as np

    np.save(out / _TABLE, projection.table.numpy())
    if projection.bias is not None:
        np.save(out / _BIAS, projection.bias.numpy())
    if projection.divisor != 1.0 or projection.cap is not None:
        write_atomic(out / _REST, json.dumps({"divisor": projection.divisor, "cap": projection.cap}) + "\n")


def load(folder: Path) -> Projection:
    """What `save` wrote."""
    import numpy as np
    import torch

    bias = torch.from_numpy(np.load(folder / _BIAS)) if (folder / _BIAS).is_file() else None
    rest = json.loads((folder / _REST).read_text(encoding="utf-8")) if (folder / _REST).is_file() else {}
    return Projection(torch.from_numpy(np.load(folder / _TABLE)), bias, **rest)
