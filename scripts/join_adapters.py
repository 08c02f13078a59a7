#!/usr/bin/env python3
"""Two LoRA adapters, the second trained on top of the first, as one that does what both do; float16.

usage: scripts/join_adapters.py FIRST SECOND OUT

W + b B1 A1 + b B2 A2 = W + b [B1 B2] [A1; A2]: ranks add up, nothing is lost but float32's last digits. Both must have
the same scale b (alpha / rank) and the same targets. OUT takes the first one's finetune.json, which names the base.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "finetune.json"


def join(first: Path, second: Path, out: Path) -> None:
    configs: list[dict[str, Any]] = [json.loads((folder / CONFIG).read_text()) for folder in (first, second)]
    weights = [load_file(folder / WEIGHTS) for folder in (first, second)]
    scales = [config["lora_alpha"] / config["r"] for config in configs]
    if scales[0] != scales[1] or weights[0].keys() != weights[1].keys():
        raise SystemExit("the two adapters differ in alpha / rank or in their targets: they cannot be joined")
    if any(config.get("use_dora") or config.get("use_rslora") for config in configs):
        raise SystemExit("only plain LoRA adapters can be joined")
    joined = {
        name: np.concatenate([value, weights[1][name]], axis=0 if ".lora_A." in name else 1).astype(np.float16)
        for name, value in weights[0].items()
    }
    rank = configs[0]["r"] + configs[1]["r"]
    out.mkdir(parents=True, exist_ok=True)
    save_file(joined, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(
        json.dumps({**configs[0], "r": rank, "lora_alpha": int(scales[0] * rank)}, indent=2) + "\n"
    )
    shutil.copy(first / CARD, out / CARD)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("first", "second", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    join(given.first, given.second, given.out)
