"""Olive's LoRA, DoRA and QLoRA passes behind the recipe of the completion trainer.

They take the loss on the prompt too, which teaches the passages more than the answers; the completion trainer is the
default for that reason. No held-out loss, no checkpoints, no progress but the log.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.engine.base import Message
from edge.errors import BuildError
from edge.files import write_atomic
from optimize import disk, olive_runner
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import FineTuneRecipe
from optimize.training.checkpoint import Progress
from optimize.training.losses import write_losses

TOOLS = ("olive-ai",)
_PASSES = {"lora": "LoRA", "dora": "DoRA", "qlora": "QLoRA"}
_TEXTS = "texts.jsonl"


def train(
    parent: Path,
    base_id: str,
    recipe: FineTuneRecipe,
    samples: Sequence[Sample],
    work: Path,
    out: Path,
    log_name: str,
) -> list[str]:
    """Write adapter_model.safetensors (float16) and adapter_config.json into `out`; the ids of samples left out.

    :raises BuildError: the pass failed, or needs what this machine has not.
    """
    if recipe.method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        raise BuildError(
            "method: qlora needs bitsandbytes and a GPU: run pip install bitsandbytes, or take method: lora, which "
            "needs neither"
        )
    if importlib.util.find_spec("datasets") is None:
        raise BuildError(
            "trainer: olive reads its texts with the package datasets: run pip install 'edge-slm[olive-lora]', or take "
            "trainer: completion, which needs nothing more"
        )
    scratch = work / "olive"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    texts, left_out = _texts(parent, samples, recipe.max_tokens)
    with disk.explained(scratch):
        write_atomic(scratch / _TEXTS, "".join(json.dumps({"text": text}) + "\n" for text in texts))
    olive_runner.run_workflow(
        {"type": "HfModel", "model_path": str(parent), "task": "text-generation"},
        {"tune": _pass(recipe, len(texts))},
        scratch,
        log_name,
        [_data(scratch / _TEXTS, recipe, len(texts))],
    )
    found = sorted((scratch / "output").rglob("adapter_model.safetensors"))
    if not found:
        raise BuildError("Olive ended without an adapter; its log is in the folder logs of the cache, " + log_name)
    _take(found[0].parent, base_id, out)
    write_losses(Progress(), out)  # Olive tells none
    return left_out


def dtype(recipe: FineTuneRecipe) -> str:
    """What matrix products are computed in: auto is fp32, because a CPU with a flag for bf16 may be slower with it."""
    return "bf16" if recipe.dtype == "bf16" else "fp32"


def _texts(parent: Path, samples: Sequence[Sample], max_tokens: int) -> tuple[list[str], list[str]]:
    """Whole conversations as text, and the ids of samples that are too long."""
    from optimize.training.encode import Encoder, encode_all

    encoder = Encoder(parent)
    _, left_out = encode_all(samples, encoder, max_tokens)
    dropped = set(left_out)
    kept = [sample for sample in samples if sample.id not in dropped]
    turns = [[*sample.prompt, Message("assistant", sample.completion)] for sample in kept]
    return [encoder.render(conversation, generate=False) for conversation in turns], left_out


def _pass(recipe: FineTuneRecipe, samples: int) -> dict[str, Any]:
    batch = recipe.batch or max(1, recipe.batch_tokens // recipe.max_tokens)
    steps = recipe.steps or math.ceil(recipe.epochs * samples / (batch * recipe.accumulation))
    options: dict[str, Any] = {
        "type": _PASSES[recipe.method],
        "r": recipe.rank,
        "alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": list(recipe.targets),
        "train_data_config": "texts",
        "training_args": {
            "max_steps": steps,
            "learning_rate": recipe.learning_rate,
            "lr_scheduler_type": recipe.schedule,
            "warmup_steps": math.ceil(recipe.warmup_share * steps),
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": recipe.accumulation,
            "weight_decay": recipe.weight_decay,
            "max_grad_norm": recipe.max_grad_norm,
            "seed": recipe.seed,
            "gradient_checkpointing": False,
            "bf16": dtype(recipe) == "bf16",
        },
    }
    if recipe.method != "qlora":
        options |= {"torch_dtype": "float32", "device_map": None}
        options["training_args"]["use_cpu"] = True
    return options


def _data(texts: Path, recipe: FineTuneRecipe, count: int) -> dict[str, Any]:
    return {
        "name": "texts",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": str(texts), "split": "train"},
        "pre_process_data_config": {
            "text_cols": ["text"],
            "add_special_tokens": False,  # the chat template wrote them
            "strategy": "line-by-line",  # the default joins texts, and drops what does not fill a whole window
            "max_seq_len": recipe.max_tokens + 1,
            "max_samples": count,
        },
    }


def _take(folder: Path, base_id: str, out: Path) -> None:
    """Copy what Olive wrote in the form of the completion trainer: float16, and no path of this machine."""
    from safetensors.torch import load_file

    from optimize.training.adapter import write

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write(load_file(folder / "adapter_model.safetensors"), config, base_id, out)
