"""Reads text with a folder of graphs of fixed shapes, in plain ONNX Runtime: all logits, not the last row alone.

The folder is what onnxruntime-genai loads as `decoder-pipeline`: embeddings, `context` for a chunk of the prompt, an LM
head. The same graphs and kernels, without the generator, which gives the logits of the last position only. Needs
onnxruntime and numpy alone, so it also runs in a target's own environment.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def register(provider: str, module: str) -> None:
    """Let ONNX Runtime know of a provider that comes as a plug-in package."""
    import onnxruntime as ort

    ort.register_execution_provider_library(provider, importlib.import_module(module).get_library_path())


def devices(provider: str) -> list[Any]:
    """The provider's devices, once it is registered."""
    import onnxruntime as ort

    return [device for device in ort.get_ep_devices() if device.ep_name == provider]


def reader(
    folder: Path, *, threads: int, provider: str | None = None, options: dict[str, str] | None = None
) -> Callable[[Any], Any]:
    """A function int64 (time,) -> logits float32 (time, vocabulary); `time` must be a multiple of the chunk.

    :param provider: that runs `context`; None is the CPU.
    """
    import numpy as np
    import onnxruntime as ort

    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    stages = {name: stage for part in decoder["pipeline"] for name, stage in part.items()}
    chunk = decoder["sliding_window"]["window_size"]

    def session(name: str) -> Any:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = threads, 3
        graph = folder / stages[name]["filename"]
        if provider and name == "context":
            settings.add_provider_for_devices(devices(provider)[:1], options or {})
            return ort.InferenceSession(graph, settings)
        return ort.InferenceSession(graph, settings, ["CPUExecutionProvider"])

    embeddings, context, head = session("embeddings"), session("context"), session("lm_head")
    outputs = [given.name for given in context.get_outputs()]
    hidden = outputs.index(head.get_inputs()[0].name)
    into = embeddings.get_outputs()[0].name
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    names = [given.name for given in context.get_inputs() if given.name.startswith("past_key_values.")]

    def read(tokens: Any) -> Any:
        past, rows = dict.fromkeys(names, empty), []
        for start in range(0, len(tokens), chunk):
            end = start + chunk
            given = {
                into: embeddings.run(None, {"input_ids": tokens[None, start:end]})[0],
                "past_seq_len": np.array([[end - 1]], np.int32),
                "total_seq_len": np.array(end, np.int32),
            }
            found = context.run(None, {**given, **past})
            past = {
                name.replace("present.", "past_key_values."): value
                for name, value in zip(outputs, found, strict=True)
                if name.startswith("present.")
            }
            rows.append(head.run(None, {head.get_inputs()[0].name: found[hidden]})[0][0])
        return np.concatenate(rows).astype(np.float32)

    return read
