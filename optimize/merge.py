"""Parent and adapter -> a Hugging Face folder in fp32, laid out as the parent is: what later stages take for it.

An adapter only fits the weights that it was trained on. Names and shapes are compared first, from the headers of the
files; then what the base is called; then, where the adapter brings its card, the weights themselves.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import sha256_file, write_atomic
from edge.machine import cores
from optimize import child, disk
from optimize.finetune import ADAPTER, CARD, CONFIG, weights_digest
from optimize.finetune_recipe import AdapterSource

TOOLS = ("torch", "transformers", "peft", "safetensors")
READS = (ADAPTER, CONFIG, CARD)
"""Files of an adapter that decide what is merged, and whether."""
_PREFIX = "base_model.model."
_PARTS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude"}
Shapes = dict[str, list[int]]


def check_source(source: AdapterSource) -> Path:
    """The folder of an adapter that is ready, once its weights are what the recipe pins.

    :raises BuildError: it is not there, or is another one.
    """
    path = source.path / ADAPTER
    if not path.is_file():
        raise BuildError(f"{path}: no such file; adapter.path names the folder that holds {ADAPTER} and {CONFIG}")
    if (found := sha256_file(path)) != source.sha256:
        raise BuildError(
            f"{path} has the sha256 {found}, the recipe pins {source.sha256}: take the adapter that the recipe means, "
            "or change adapter.sha256"
        )
    return source.path


def check_fits(parent: Path, base_id: str, adapter: Path) -> None:
    """Check that `adapter` was trained on the base in `parent`, without loading either.

    :raises BuildError: it was not, or is no LoRA or DoRA adapter; says what differs.
    """
    config = _config(adapter)
    if config.get("peft_type") != "LORA":
        raise BuildError(f"{adapter}: a {config.get('peft_type')} adapter; only LoRA and DoRA adapters can be merged")
    _check_shapes(_shapes(parent / "model.safetensors"), _shapes(adapter / ADAPTER), config, adapter)
    named = str(config.get("base_model_name_or_path") or "")
    if named and named != base_id and not Path(named).is_absolute():
        raise BuildError(f"{adapter} is an adapter for another base: it names {named}, the recipe's base is {base_id}")
    trained_on = _trained_on(adapter)
    if trained_on and trained_on != weights_digest(parent):
        raise BuildError(
            f"{adapter} is an adapter for another base: it was trained on other weights of {base_id} "
            f"(weights_sha256 {trained_on}). Take the base that it was trained on, or train it anew"
        )


def merge(parent: Path, base_id: str, adapter: Path, out: Path, log_name: str) -> None:
    """Write the parent with the adapter added to its weights into `out`, and merged.json, which says so.

    :raises BuildError: the adapter does not fit, or merging failed.
    """
    check_fits(parent, base_id, adapter)
    scratch = out / ".scratch"
    child.run("optimize.merge", [str(parent), str(adapter), str(out)], f"Merging {adapter.name}", log_name, scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    with disk.explained(out):
        for file in parent.iterdir():
            if file.is_file() and file.name not in ("model.safetensors", "stage.json"):
                shutil.copyfile(file, out / file.name)
        record = {"adapter_sha256": sha256_file(adapter / ADAPTER), "config_sha256": sha256_file(adapter / CONFIG)}
        write_atomic(out / "merged.json", json.dumps(record, indent=2) + "\n")


def _config(adapter: Path) -> dict[str, Any]:
    try:
        content = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{adapter / CONFIG} cannot be read: {error}. Take a whole adapter folder") from error
    if not isinstance(content, dict):
        raise BuildError(f"{adapter / CONFIG} holds no configuration. Take a whole adapter folder")
    return content


def _trained_on(adapter: Path) -> str | None:
    """Digest of the weights that the adapter was trained on, if it brings its card."""
    try:
        return str(json.loads((adapter / CARD).read_text(encoding="utf-8"))["base"]["weights_sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{adapter / CARD} is damaged ({error}): take the adapter from where it came from") from error


def _shapes(path: Path) -> Shapes:
    """Names and shapes of a safetensors file, from its header."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = stream.seek(0, 2)
            if length > size:
                raise ValueError("no safetensors file, or cut short")
            stream.seek(8)
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        if size < 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0):
            raise ValueError("cut short")
        return {name: list(entry["shape"]) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path} cannot be read: {error}") from error


def _check_shapes(base: Shapes, adapter: Shapes, config: dict[str, Any], where: Path) -> None:
    layers: dict[str, dict[str, list[int]]] = {}
    for name, shape in adapter.items():
        part = next((part for part in _PARTS if name.endswith(part)), None)
        if not name.startswith(_PREFIX) or part is None:
            raise BuildError(f"{where}: {name} is no part of a LoRA or DoRA adapter; train it without modules_to_save")
        layers.setdefault(name[len(_PREFIX) : -len(part) - 1], {})[_PARTS[part]] = shape
    if not layers:
        raise BuildError(f"{where}: the adapter is empty")
    for layer, parts in layers.items():
        if not (weight := base.get(f"{layer}.weight")):
            raise BuildError(f"{where} is an adapter for another base: this one has no layer {layer}")
        if "A" not in parts or "B" not in parts:
            raise BuildError(f"{where}: half of the adapter of {layer} is missing")
        fits = [parts["B"][0], parts["A"][1]] if len(parts["A"]) == len(parts["B"]) == 2 else None
        if fits != weight or parts["A"][0] != parts["B"][1]:
            raise BuildError(
                f"{where} is an adapter for another base: for {layer} it brings {parts['B']} x {parts['A']}, and the "
                f"base's weight is {weight}"
            )
        if bool(config.get("use_dora")) != ("magnitude" in parts):
            raise BuildError(f"{where}: {CONFIG} and {ADAPTER} do not agree on whether this is a DoRA adapter")


def _main(parent: Path, adapter: Path, out: Path) -> None:
    child.die_with_parent()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(cores())
    base = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    tuned: Any = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=True)
    merged = tuned.merge_and_unload(safe_merge=True)  # refuses weights that are not finite
    merged.save_pretrained(out, max_shard_size="100GB")


if __name__ == "__main__":
    import sys

    _main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
