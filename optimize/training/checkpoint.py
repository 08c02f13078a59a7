"""Where a training stands, in one file that appears whole or not at all.

The order of the examples and the random numbers of a step are functions of the seed and the step (see loop.py), so the
weights, the optimizer, the step and the type of the matrix products are all that a resumed run needs to end with the
same bits.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BuildError
from edge.files import write_atomic
from optimize import disk

if TYPE_CHECKING:
    import torch

    from optimize.training.model import Dtype

NAME = "checkpoint.pt"


@dataclass
class Progress:
    """What has happened so far."""

    step: int = 0  # steps done
    losses: list[list[float]] = field(default_factory=list)  # [step, loss of its batches in nats]
    held_out: list[list[float]] = field(default_factory=list)  # [step, held-out loss in nats a token]
    best_loss: float | None = None  # lowest held-out loss
    best_step: int = 0
    waited: int = 0  # held-out losses since then
    is_finished: bool = False
    dtype: Dtype | None = None  # of the matrix products: `dtype: auto` was measured when the training began


def save(
    folder: Path,
    progress: Progress,
    weights: dict[str, torch.Tensor],
    optimizer: dict[str, Any],
    best: dict[str, torch.Tensor] | None,
) -> None:
    """Replace the checkpoint in `folder`.

    :raises BuildError: the disk is full; the checkpoint before it is whole.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"progress": asdict(progress), "weights": weights, "optimizer": optimizer, "best": best}, buffer)
    try:
        with disk.explained(folder):
            write_atomic(folder / NAME, buffer.getvalue())
    except BuildError as error:
        raise BuildError(
            f"{folder}: the disk is full, so step {progress.step} could not be written. Free "
            f"{-(-len(buffer.getvalue()) // 2**20)} MiB, or point EDGE_CACHE at a larger disk, and run the same "
            "command again: it goes on from the checkpoint before."
        ) from error


def recorded_dtype(folder: Path) -> Dtype | None:
    """What the training in `folder` computes its matrix products in; None where none has begun."""
    found = load(folder)
    return found[0].dtype if found else None


def load(folder: Path) -> tuple[Progress, dict[str, Any]] | None:
    """The checkpoint in `folder`; None where there is none, or where it cannot be read (it is made again)."""
    import pickle

    import torch

    if not (folder / NAME).is_file():
        return None
    try:
        content = torch.load(folder / NAME, weights_only=True)
        return Progress(**content["progress"]), content
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return None
