"""An adapter as a folder in peft's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.files import write_atomic
from optimize import disk

if TYPE_CHECKING:
    import torch


def write(weights: dict[str, torch.Tensor], config: dict[str, Any], base_id: str, folder: Path) -> None:
    """Write adapter_model.safetensors (float16) and adapter_config.json; both are the same for the same weights.

    float16 rather than bfloat16: an adapter's weights are small, so its range is wide enough, and it has three bits
    more. A tensor that float16 cannot hold stays float32.

    :param config: peft's configuration of the adapter.
    :param base_id: what the base is called: in place of the path that it was loaded from.
    :raises BuildError: the disk is full.
    """
    import torch
    from safetensors.torch import save

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        half = tensor.to(torch.float16)
        return (half if torch.isfinite(half).all() else tensor.float()).contiguous()

    named = {name: stored(tensor) for name, tensor in sorted(weights.items())}
    config = {**config, "base_model_name_or_path": base_id, "inference_mode": True}
    content = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with disk.explained(folder):
        write_atomic(folder / "adapter_model.safetensors", save(named, metadata={"format": "pt"}))
        write_atomic(folder / "adapter_config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
