"""fp32 parent -> ONNX folder for onnxruntime-genai, by Olive's ModelBuilder pass and the recipe's `model` section."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic
from optimize import child
from optimize.olive_runner import run_workflow
from optimize.recipe import ModelRecipe

TOOLS = ("olive-ai", "onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
KEPT = (GRAPH, WEIGHTS, "genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_INT8_KV_SCHEME = "int8_per_channel"


def build_model(parent: Path, recipe: ModelRecipe, out: Path, log_name: str, kv_scales: Path | None = None) -> None:
    """Write the quantized model with its tokenizer and genai_config.json into `out`.

    :param kv_scales: file written by `calibrate_kv_cache`, where the recipe wants an int8 KV cache.
    :raises BuildError: Olive failed, or the model does not allow what the recipe asks for.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    options = builder_options(recipe, kv_scales)
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
        tie_int8_embedding(out, recipe.block_size)
    config = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
    config["search"]["max_length"] = recipe.context_tokens  # the KV cache is allocated at this length
    write_atomic(out / "genai_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_fits(parent: Path, recipe: ModelRecipe) -> None:
    """Refuse at once what the recipe asks for and this model cannot give.

    :raises BuildError: a context longer than it was trained for, or one table for an embedding and a head that differ.
    """
    config = json.loads((parent / "config.json").read_text(encoding="utf-8"))
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
        # the builder can share a table of 4 bits; one of 8 bits is tied afterwards, see tie_int8_embedding
        "shared_embeddings": recipe.shared_embeddings and recipe.head_bits != 8,
        "prune_lm_head": recipe.prune_lm_head,
        "fuse_mlp_gate_up": recipe.fuse_mlp_gate_up,
        "hf_token": "false",
    }
    if recipe.mixed_precision:
        options["matmul_mixed_precision"] = ",".join(f"{part}:{to}" for part, to in recipe.mixed_precision.items())
    if recipe.kv_cache == "int8":
        options |= {"kv_cache_quant_scheme": _INT8_KV_SCHEME, "kv_cache_scale_file": str(kv_scales)}
    return options


def calibrate_kv_cache(model: Path, parent: Path, out: Path, log_name: str) -> None:
    """Measure the ranges of keys and values of a float32-KV build and write `scales.json`, for an int8 KV cache.

    :raises BuildError: the calibration failed; names the log.
    """
    arguments = ["--model", str(model), "--tokenizer", str(parent), "--out", str(out / "scales.json")]
    arguments += ["--quant-type", _INT8_KV_SCHEME]
    module = "onnxruntime_genai.models.quantization.kv_cache_calibration"
    child.run(module, arguments, "Calibrating the int8 KV cache", log_name, out / ".scratch")
    shutil.rmtree(out / ".scratch", ignore_errors=True)


def tie_int8_embedding(folder: Path, block_size: int) -> None:
    """Let embedding and LM head read one table of 8-bit weights, in place of fp32 rows beside an 8-bit copy.

    The builder shares a table only at 4 bits. Rounding is that of GGUF's Q8_0 (scale = largest magnitude of the block
    / 127, zero in the middle), so a table that came as Q8_0 in blocks of the same size is kept exactly.

    :raises BuildError: the graph has not the shape that the builder gives it.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / GRAPH)
    graph = model.graph
    head = next((n for n in graph.node if n.op_type == "MatMulNBits" and n.name.startswith("/lm_head/")), None)
    lookup = next((n for n in graph.node if n.op_type == "Gather" and n.input[1] == "input_ids"), None)
    if head is None or lookup is None:
        raise BuildError("shared_embeddings: found no 8-bit LM head or no fp32 embedding to share its table with")
    stored = {tensor.name: tensor for tensor in graph.initializer}
    table = numpy_helper.to_array(stored[lookup.input[0]])  # (vocabulary, hidden), float32
    rows, width = table.shape
    if width % block_size:
        raise BuildError(f"shared_embeddings: the hidden size {width} is no multiple of block_size {block_size}")
    blocks = table.reshape(rows, width // block_size, block_size)
    scales = np.abs(blocks).max(axis=2) / np.float32(127)
    safe = np.where(scales == 0, np.float32(1), scales)
    codes = (np.rint(blocks / safe[:, :, None]) + 128).astype(np.uint8)
    dead = {lookup.input[0], *head.input[1:]}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in dead]:
        graph.initializer.remove(tensor)
    names = ("lm_head.MatMul.weight_Q8", "lm_head.MatMul.weight_scales")
    graph.initializer.extend([numpy_helper.from_array(codes, names[0]), numpy_helper.from_array(scales, names[1])])
    shapes = {"embed_tokens.scale_shape": [rows, width // block_size, 1], "embed_tokens.row_shape": [0, 0, width]}
    graph.initializer.extend(numpy_helper.from_array(np.array(dims, np.int64), name) for name, dims in shapes.items())
    del head.input[1:]
    head.input.extend(names)  # no zero points: 128 is the default of both operators
    _replace(graph, lookup, _shared_lookup(names, lookup, block_size))
    (folder / WEIGHTS).unlink()
    onnx.save(model, folder / GRAPH, save_as_external_data=True, location=WEIGHTS, size_threshold=1024)


def _shared_lookup(table: tuple[str, str], lookup: Any, block_size: int) -> list[Any]:
    """Nodes that read rows of the head's table: (batch, time) -> (batch, time, blocks, block) -> (batch, time, hidden).

    The table stays in the head's shape and only the scales are reshaped: the runtime folds a reshaped constant into a
    copy, and this way the copy is small.
    """
    from onnx import helper

    codes, scales = table
    base = "/model/embed_tokens"
    return [
        helper.make_node("Reshape", [scales, "embed_tokens.scale_shape"], [f"{base}/scales"], f"{base}/ScaleShape"),
        helper.make_node(
            "GatherBlockQuantized", [codes, "input_ids", f"{base}/scales"], [f"{base}/blocks"], lookup.name,
            domain="com.microsoft", bits=8, block_size=block_size, gather_axis=0, quantize_axis=2,
        ),
        helper.make_node("Reshape", [f"{base}/blocks", "embed_tokens.row_shape"], list(lookup.output), f"{base}/Rows"),
    ]  # fmt: skip


def _replace(graph: Any, old: Any, new: list[Any]) -> None:
    at = list(graph.node).index(old)
    graph.node.remove(old)
    for offset, node in enumerate(new):
        graph.node.insert(at + offset, node)
