"""fp32 parent -> the same with int4 weights by GPTQ, calibrated on the training prompts, through Olive's Gptq pass.

GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds a matrix column by column and lets the columns that follow make up
for each error, so that its products with the inputs seen in calibration change least. The embedding and the LM head are
left alone: the builder rounds them afterwards, as `builder_recipe` says.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic
from optimize import olive_runner, quantize
from optimize.dataset.examples import Sample
from optimize.recipe import ModelRecipe

TOOLS = olive_runner.TOOLS
SCRIPT = Path(__file__).with_name("olive_prompts.py")
CALIBRATION_TOKENS = 16_384
"""Read in calibration, in whole prompts; the pass takes a minute or two on two cores for 135 million weights."""

_MAX_TOKENS = 1024  # a longer prompt is not calibrated on
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_SENSITIVE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj", "mlp.down_proj")


def builder_recipe(recipe: ModelRecipe) -> ModelRecipe:
    """What is left for the builder to do on weights that `round_weights` wrote."""
    head = {part: to for part, to in recipe.mixed_precision.items() if part == "last_matmul"}
    return replace(recipe, algorithm="k_quant", mixed_precision=head)


def overrides(weights: Collection[str], layers: int, recipe: ModelRecipe) -> dict[str, dict[str, int]]:
    """Module -> bits, for those that do not get 4: the builder's own choice of sensitive layers (`mixed_layers`).

    :param weights: names of the parent's; families name their projections differently.
    """
    if recipe.mixed_precision.get("mixed_layers") != "int8":
        return {}
    eighth = layers / 8
    sensitive = [i for i in range(layers) if i < eighth or i >= 7 * eighth or (i - round(eighth)) % 3 == 2]
    modules = [f"model.layers.{i}.{module}" for i in sensitive for module in _SENSITIVE]
    return {module: {"bits": 8} for module in modules if f"{module}.weight" in weights}


def rows(parent: Path, samples: Sequence[Sample], tokens: int = CALIBRATION_TOKENS) -> list[list[int]]:
    """Token ids of whole prompts with their answers, drawn with a fixed seed until there are `tokens` of them.

    :raises BuildError: there is none, or none is short enough.
    """
    from optimize.training.encode import Encoder

    encoder, found, count = Encoder(parent), [], 0
    for sample in random.Random(0).sample(list(samples), len(samples)):
        encoded = encoder.encode(sample)
        row = [*encoded.prompt, *encoded.completion]
        if len(row) <= _MAX_TOKENS:
            found.append(row)
            count += len(row)
        if count >= tokens:
            break
    if not found:
        raise BuildError(f"algorithm: gptq found no training prompt of {_MAX_TOKENS} tokens or less to calibrate on")
    return found


def round_weights(parent: Path, recipe: ModelRecipe, samples: Sequence[Sample], out: Path, log_name: str) -> None:
    """Write a Hugging Face folder with rounded weights, in Olive's format, into `out`.

    :raises BuildError: Olive failed, or there is nothing to calibrate on.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    write_atomic(scratch / "rows.json", json.dumps(rows(parent, samples)))
    layers = json.loads((parent / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    options = {
        "type": "Gptq",
        "bits": 4,
        "group_size": recipe.block_size,
        "sym": recipe.symmetric,
        "lm_head": False,
        "overrides": overrides(quantize.weight_names(parent), layers, recipe),
        "data_config": "prompts",
    }
    model = {"type": "HfModel", "model_path": str(parent), "task": "text-generation"}
    built = olive_runner.run_workflow(model, {"gptq": options}, scratch, log_name, [_data(scratch / "rows.json")])
    for file in sorted(built.iterdir()):
        if file.is_file():
            file.replace(out / file.name)
    shutil.rmtree(scratch)
    for name in _BESIDE:
        if (parent / name).is_file() and not (out / name).exists():
            shutil.copyfile(parent / name, out / name)


def _data(file: Path) -> dict[str, Any]:
    return {
        "name": "prompts",
        "user_script": str(SCRIPT),
        "load_dataset_config": {"type": "edge_token_rows", "params": {"path": str(file)}},
        "pre_process_data_config": {"type": "edge_as_it_is"},
        "post_process_data_config": {"type": "edge_as_it_comes"},
        "dataloader_config": {"params": {"batch_size": 1}},
    }
