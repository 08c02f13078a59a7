"""An adapter in peft's format as what a build takes at run time: checked, renamed, and written as one file.

Olive's own conversions give names that no graph has, so this one goes by the build: names are those of its inputs,
alpha / rank is part of B, and the parts of a fused projection stand together (see adapter_graph.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from optimize import merge
from optimize.adapter_graph import Site
from optimize.finetune import ADAPTER, CONFIG

_VERSION = 1
_PREFIX = "base_model.model."
_UNSUPPORTED = {
    "use_dora": "DoRA scales each column of the sum of base and adapter: merge it, with `adapter:` in the recipe",
    "use_rslora": "rank-stabilized LoRA (alpha / sqrt(rank)): train it without, or merge it, with `adapter:`",
    "fan_in_fan_out": "its weights are transposed: train it on this base with peft's defaults",
    "lora_bias": "it has biases: train it without lora_bias",
    "rank_pattern": "layers have ranks of their own: train it with one rank",
    "alpha_pattern": "layers have an alpha of their own: train it with one alpha",
    "layers_to_transform": "it leaves layers out: train it on all layers",
}
"""Keys of peft's configuration that change what an adapter means, and are not supported where they are set."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in peft's format that fits its base."""

    name: str
    folder: Path
    rank: int
    scale: float  # alpha / rank
    modules: frozenset[str]  # e.g. model.layers.0.self_attn.q_proj

    @property
    def kinds(self) -> set[str]:
        return {module.rpartition(".")[2] for module in self.modules}


def check(name: str, folder: Path, parent: Path, base_id: str) -> Adapter:
    """The adapter in `folder`, once it is found to be one for the base in `parent`, with all that each layer needs.

    :raises BuildError: it is for another base, of a kind that cannot stay separate, or incomplete.
    """
    merge.check_fits(parent, base_id, folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key, why in _UNSUPPORTED.items():
        if config.get(key):
            raise BuildError(f"{folder}: adapter {name} cannot stay separate ({key}): {why}")
    if config.get("bias", "none") != "none":
        raise BuildError(f"{folder}: adapter {name} cannot stay separate (bias): train it with bias: none")
    found = shapes(folder / ADAPTER)
    ranks = {shape[0] for key, shape in found.items() if key.endswith("lora_A.weight")}
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or ranks != {rank}:
        raise BuildError(f"{folder}: {CONFIG} says rank {rank}, the weights have {', '.join(map(str, sorted(ranks)))}")
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise BuildError(f"{folder}: {CONFIG} has no lora_alpha above 0")
    modules = frozenset(key.removeprefix(_PREFIX).partition(".lora_")[0] for key in found)
    adapter = Adapter(name, folder, rank, alpha / rank, modules)
    kinds = tuple(f".{kind}.weight" for kind in adapter.kinds)
    every = {key.removesuffix(".weight") for key in shapes(parent / "model.safetensors") if key.endswith(kinds)}
    if missing := sorted(every - modules):
        raise BuildError(f"{folder}: adapter {name} brings nothing for {', '.join(missing[:3])}: it is not whole")
    return adapter


def packed(adapter: Adapter, found: list[Site]) -> dict[str, Any]:
    """The adapter's weights as the build takes them: float32 arrays by input name, alpha / rank in B.

    :raises BuildError: a weight is not finite.
    """
    import numpy as np
    from safetensors.torch import load_file

    weights = {name: tensor.float().numpy() for name, tensor in load_file(adapter.folder / ADAPTER).items()}
    if bad := [name for name, array in weights.items() if not np.isfinite(array).all()]:
        raise BuildError(f"{adapter.folder / ADAPTER}: {bad[0]} holds NaN or infinity; train the adapter anew")
    made: dict[str, Any] = {}
    for site in found:
        low, high, column = [], [], 0
        for part, outputs in zip(site.parts, site.outputs, strict=True):
            if part in adapter.modules:
                low.append(weights[f"{_PREFIX}{part}.lora_A.weight"].T)  # (inputs, rank)
                block = np.zeros((adapter.rank, sum(site.outputs)), np.float32)
                up = weights[f"{_PREFIX}{part}.lora_B.weight"].T * np.float32(adapter.scale)  # (rank, outputs)
                block[:, column : column + outputs] = up
                high.append(block)
            column += outputs
        if low:
            made[site.a] = np.ascontiguousarray(np.concatenate(low, axis=1))
            made[site.b] = np.concatenate(high, axis=0)
    return made


def check_inputs(adapter: Adapter, weights: Mapping[str, Any], inputs: Mapping[str, tuple[int | str, ...]]) -> None:
    """Check names and shapes of `weights` against the inputs of a build; a rank is free, but one for A and B.

    :raises BuildError: they do not match; names the input.
    """
    ranks: dict[str, int] = {}
    for name, array in weights.items():
        wanted = inputs.get(name)
        fits = wanted is not None and len(wanted) == array.ndim and array.dtype == "float32"
        for size, dim in zip(array.shape, wanted or (), strict=False):
            fits = fits and size == (ranks.setdefault(dim, size) if isinstance(dim, str) else dim)
        if not fits:
            raise BuildError(
                f"adapter {adapter.name}: {name} has the shape {list(array.shape)}, the build takes "
                f"{list(wanted) if wanted else 'no such input'}"
            )
    low = {name.replace(".lora_A.", ".lora_B.") for name in weights if ".lora_A." in name}
    halves = low ^ {name for name in weights if ".lora_B." in name}
    if not weights or halves:
        what = f"half of {min(halves)}" if halves else "everything"
        raise BuildError(f"adapter {adapter.name}: {what} is missing")


def export(weights: Mapping[str, Any], path: Path) -> None:
    """Write arrays as a file that ONNX Runtime loads as an adapter."""
    import onnxruntime as ort

    made = ort.AdapterFormat()
    made.set_adapter_version(_VERSION)
    made.set_model_version(_VERSION)
    made.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in sorted(weights.items())})
    made.export_adapter(str(path))


def exported(path: Path) -> dict[str, Any]:
    """The arrays in a file that `export` wrote.

    :raises BuildError: it is damaged.
    """
    import onnxruntime as ort

    try:
        read = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    except Exception as error:
        raise BuildError(f"{path} cannot be read as an adapter: {error}. Build it again") from error
    return {name: value.numpy() for name, value in read.items()}


def shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of a safetensors file, from its header."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        return {name: list(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 - no mapping
