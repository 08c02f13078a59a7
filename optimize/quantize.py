"""fp32 parent -> ONNX folder for onnxruntime-genai, by Olive's ModelBuilder pass and the recipe's `model` section."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic
from optimize import architectures, child, dialogue, head
from optimize.head import GRAPH, WEIGHTS
from optimize.olive_runner import run_workflow
from optimize.recipe import ModelRecipe

TOOLS = ("olive-ai", "onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
KEPT = (GRAPH, WEIGHTS, "genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_INT8_KV_SCHEME = "int8_per_channel"


def build_model(parent: Path, recipe: ModelRecipe, out: Path, log_name: str, kv_scales: Path | None = None) -> None:
    """Write the quantized model with its tokenizer and genai_config.json into `out`.

    :param kv_scales: file written by `calibrate_kv_cache`, where the recipe wants an int8 KV cache.
    :raises BuildError: Olive failed, the model does not allow what the recipe asks for, or the runtime reads text as
        other tokens than the parent does.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    options = builder_options(recipe, kv_scales) | unfused(parent)
    passes = {"build": {"type": "ModelBuilder", "precision": recipe.precision, "extra_options": options}}
    model = {"type": "HfModel", "model_path": str(parent), "task": "text-generation"}
    built = run_workflow(model, passes, scratch, log_name)
    for name in KEPT:
        source = (built if built.is_dir() else built.parent) / name
        if not source.is_file():
            raise BuildError(f"the model builder wrote no {name}; this kind of model is not supported")
        source.replace(out / name)
    shutil.rmtree(scratch)
    if recipe.shared_embeddings and recipe.head_bits == 8:
        head.tie_int8_embedding(out, recipe.block_size)
    if recipe.logits_rows > 1:
        head.limit_logits(out, recipe.logits_rows)
    config = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
    config["search"]["max_length"] = recipe.context_tokens  # the KV cache is allocated at this length
    write_atomic(out / "genai_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    dialogue.check_tokens(parent, out)


def check_fits(parent: Path, recipe: ModelRecipe) -> None:
    """Refuse at once what the recipe asks for and this model cannot give.

    :raises BuildError: an architecture that cannot be built, a context longer than it was trained for, or one table for
        an embedding and a head that differ.
    """
    config = json.loads((parent / "config.json").read_text(encoding="utf-8"))
    architectures.check(config, "the base")
    limit = config.get("max_position_embeddings")
    if limit is not None and recipe.context_tokens > limit:
        raise BuildError(f"model.context_tokens is {recipe.context_tokens}; this model was trained for {limit} at most")
    if recipe.shared_embeddings and not config.get("tie_word_embeddings", False):
        raise BuildError("this model has an LM head of its own: set model.shared_embeddings to false")


def calibration_recipe(recipe: ModelRecipe) -> ModelRecipe:
    """The build whose keys and values are measured for an int8 KV cache: the same weights, a float32 cache."""
    return replace(recipe, kv_cache="float32")


def builder_options(recipe: ModelRecipe, kv_scales: Path | None = None) -> dict[str, Any]:
    """The recipe in the words of onnxruntime-genai 0.18's builder, which ignores names that it does not know."""
    options: dict[str, Any] = {
        "block_size": recipe.block_size,
        "algo_config": recipe.algorithm,
        "accuracy_level": recipe.accuracy_level,
        "is_symmetric": recipe.symmetric,
        # the builder can share a table of 4 bits; one of 8 bits is tied afterwards, see head.tie_int8_embedding
        "shared_embeddings": recipe.shared_embeddings and recipe.head_bits != 8,
        "prune_lm_head": recipe.logits_rows == 1,  # more rows than one: see head.limit_logits
        "fuse_mlp_gate_up": recipe.fuse_mlp_gate_up,
        # where layers look back over a window only, a cache as long as the window cannot be rewound
        "windowed_kv_cache": False,
        "hf_token": "false",
    }
    if recipe.mixed_precision:
        options["matmul_mixed_precision"] = ",".join(f"{part}:{to}" for part, to in recipe.mixed_precision.items())
    if recipe.kv_cache == "int8":
        options |= {"kv_cache_quant_scheme": _INT8_KV_SCHEME, "kv_cache_scale_file": str(kv_scales)}
    return options


def unfused(parent: Path) -> dict[str, bool]:
    """What to tell the builder of a model whose layers have no gate (Nemotron, Phi 2): that it is not to be fused."""
    has_gate = any(".mlp.gate_" in name for name in weight_names(parent))  # Phi 3 has gate_up_proj
    return {} if has_gate else {"fuse_mlp_gate_up": False}


def weight_names(parent: Path) -> frozenset[str]:
    """Of a Hugging Face folder, from the header of its file."""
    with (parent / "model.safetensors").open("rb") as stream:
        return frozenset(json.loads(stream.read(int.from_bytes(stream.read(8), "little"))))


def calibrate_kv_cache(model: Path, parent: Path, out: Path, log_name: str) -> None:
    """Measure the ranges of keys and values of a float32-KV build and write `scales.json`, for an int8 KV cache.

    :raises BuildError: the calibration failed; names the log.
    """
    arguments = ["--model", str(model), "--tokenizer", str(parent), "--out", str(out / "scales.json")]
    arguments += ["--quant-type", _INT8_KV_SCHEME]
    module = "onnxruntime_genai.models.quantization.kv_cache_calibration"
    child.run(module, arguments, "Calibrating the int8 KV cache", log_name, out / ".scratch")
    shutil.rmtree(out / ".scratch", ignore_errors=True)
