"""The only door to OpenVINO: a model's graph is read and run on the CPU, in the environment `openvino`.

    PYTHON_OF_THE_ENVIRONMENT -m optimize.openvino_runner JOB.json

What runs on an NPU cannot be run here; the same graph, compiled by OpenVINO for the CPU, can. Keys and values are kept
as float32 and activations are not rounded, so that what is seen is what the weights lost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edge.files import write_atomic
from edge.machine import cores
from optimize import child

RESULT, LOGITS = "result.json", "logits.npy"


def run(folder: Path, graph: str, tokens: Any, scratch: Path, log_name: str, python: Path) -> dict[str, Any]:
    """Read windows of text with a stateful graph, each from an empty state.

    :param graph: the .xml file's name in `folder`.
    :param tokens: int64 (windows, time).
    :param scratch: an existing folder; the logits come to be there, float32 (windows, time, vocabulary), `LOGITS`.
    :param python: the environment's interpreter.
    :return: `inputs` and `outputs`, name -> shape with -1 for what is free; `states`: how many the graph keeps;
        `version`, OpenVINO's.
    :raises BuildError: the graph cannot be read or run; names the log.
    """
    import numpy as np

    np.save(scratch / "tokens.npy", tokens)
    write_atomic(scratch / "openvino.json", json.dumps({"graph": str(folder / graph), "scratch": str(scratch)}))
    arguments = [str(scratch / "openvino.json")]
    child.run("optimize.openvino_runner", arguments, f"OpenVINO ({graph})", log_name, scratch, python=python)
    found: dict[str, Any] = json.loads((scratch / RESULT).read_text(encoding="utf-8"))
    return found


def _main(job: Path) -> None:
    child.die_with_parent()
    child.quiet()
    import numpy as np
    import openvino

    asked = json.loads(job.read_text(encoding="utf-8"))
    scratch = Path(asked["scratch"])
    core = openvino.Core()
    model = core.read_model(asked["graph"])
    exact = {
        "INFERENCE_NUM_THREADS": cores(),
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",  # int8 otherwise
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # or activations become int8
    }
    request = core.compile_model(model, "CPU", exact).create_infer_request()
    names = [given.get_any_name() for given in model.inputs]
    windows = np.load(scratch / "tokens.npy")  # int64 (windows, time)
    logits: Any = None
    for index, window in enumerate(windows):
        request.reset_state()
        every = {
            "input_ids": window[None],
            "attention_mask": np.ones((1, len(window)), np.int64),
            "position_ids": np.arange(len(window), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found = request.infer({name: every[name] for name in names})[0]  # float32 (1, time, vocabulary)
        if logits is None:
            shape = (*windows.shape, found.shape[-1])
            logits = np.lib.format.open_memmap(scratch / LOGITS, mode="w+", dtype=np.float32, shape=shape)
        logits[index] = found[0]
    logits.flush()
    result = {
        "inputs": {given.get_any_name(): _shape(given) for given in model.inputs},
        "outputs": {given.get_any_name(): _shape(given) for given in model.outputs},
        "states": len(model.get_variables()),
        "version": openvino.get_version(),
    }
    write_atomic(scratch / RESULT, json.dumps(result))


def _shape(port: Any) -> list[int]:
    return [dimension.get_length() if dimension.is_static else -1 for dimension in port.get_partial_shape()]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
