"""The steps of target qnn that need Olive with an older model builder, or Qualcomm's compiler and simulator.

    PYTHON_OF_THE_ENVIRONMENT -m optimize.targets.qnn_runner JOB.json

Run in the environment `qnn` (optimize/environments.py), never imported here. `step` of JOB.json says what to do:

`build`    fp32 folder -> embeddings, context, iterator and LM head as QDQ graphs of fixed shapes, by one Olive workflow
`compile`  one of these -> EPContext nodes and a context binary for one chip; says which nodes the NPU took
`logits`   text through the graphs, on the CPU or, where they are compiled, in the simulator of the NPU (HTP)
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.files import write_atomic
from optimize import child
from optimize.targets import static_pipeline

PROVIDER = "QNNExecutionProvider"
RESULT, LOGITS = "result.json", "logits.npy"
NO_OUTPUT = 3
_SURGERIES = ("RemoveRopeMultiCache", "AttentionMaskToSequenceLengths", "SimplifiedLayerNormToL2Norm")
HEAD = "/lm_head/MatMul"
_ON_CPU = ("GroupQueryAttention", "GatherBlockQuantized", "MatMulNBits")  # no integer form that the NPU takes
_DATA = Path(__file__).with_name("qnn_data.py")


def _build(job: dict[str, Any]) -> dict[str, Any]:
    """Olive's passes. What each does for the NPU: docs/targets.md."""
    import olive.systems.local as local
    from olive.workflows import run

    # Olive asks ONNX Runtime which providers there are; a provider that comes as a plug-in is not among them
    local.get_ort_available_providers = lambda: [PROVIDER, "CPUExecutionProvider"]
    if job["per_channel"]:
        _round_each_column()
    scratch = Path(job["scratch"])
    rotate = {"rotate": {"type": "QuaRot", "rotate_mode": "hadamard"}} if job["rotate"] else {}
    passes = {
        **rotate,
        "split": {"type": "CaptureSplitInfo", "num_splits": 1, "unique_embeds_lm_head_splits": True},
        "graph": {"type": "ModelBuilder", "precision": "fp32"},
        "change": {"type": "GraphSurgeries", "surgeries": [{"surgeon": name} for name in _SURGERIES]},
        "quantize": {
            "type": "OnnxStaticQuantization",
            "data_config": "rows",
            "activation_type": job["activations"],
            "precision": "uint8",
            "calibration_providers": ["CPUExecutionProvider"],
            "quant_preprocess": True,
            "op_types_to_exclude": list(_ON_CPU),
            "nodes_to_exclude": [HEAD],  # it runs on the CPU, in a form of its own: see `_head`
        },
        "parts": {"type": "SplitModel"},
        "fix": {"type": "StaticLLM", "batch_size": 1, "context_length": job["chunk_tokens"]},
    }
    config = {
        "input_model": {"type": "HfModel", "model_path": job["parent"], "task": "text-generation"},
        "systems": {
            "npu": {"type": "LocalSystem", "accelerators": [{"device": "npu", "execution_providers": [PROVIDER]}]}
        },
        "data_configs": [
            {
                "name": "rows",
                "user_script": str(_DATA),
                "load_dataset_config": {"type": "edge_static_rows", "params": {"path": job["rows"]}},
                "pre_process_data_config": {"type": "edge_static_as_it_is"},
                "post_process_data_config": {"type": "edge_static_as_it_comes"},
                "dataloader_config": {"type": "no_auto_batch_dataloader"},
            }
        ],
        "passes": passes,
        "host": "npu",
        "target": "npu",
        "output_dir": str(scratch / "output"),
        "cache_dir": str(scratch / "cache"),
        "clean_cache": True,  # failures are cached too
        "evaluate_input_model": False,
        "log_severity_level": 1,
    }
    output = run(config)
    if not output.has_output_model():
        sys.stderr.write("Olive ended without an output model: a pass failed, see above\n")
        sys.exit(NO_OUTPUT)
    folder = Path(output.get_best_candidate().model_path)
    _head(folder / "lm_head.onnx", job["head_block_size"])
    return {"folder": str(folder)}


def _head(graph: Path, block_size: int) -> None:
    """Give the LM head int8 weights in blocks, as the CPU's kernels want them: QDQ would become fp32 when loaded."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=block_size, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = MatMulNBitsQuantizer(onnx.load(graph), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(graph), use_external_data_format=False)


def _round_each_column() -> None:
    """Let Olive's pass give each column of a weight its own scale: it asks this function, and knows of types only."""
    import olive.passes.onnx.quantization as quantization
    import onnx
    from onnxruntime.quantization import QuantType

    def overrides(model: Any, _: Any) -> dict[str, list[dict[str, Any]]]:
        graph = onnx.load(model.model_path, load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        each = {"quant_type": QuantType.QInt8, "axis": 1, "symmetric": True}
        return {
            node.input[1]: [dict(each)] for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights
        }

    quantization._get_qnn_init_overrides = overrides


def _compile(job: dict[str, Any]) -> dict[str, Any]:
    """Write a graph's compiled form beside it; count who took its nodes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    for key, value in {
        "ep.context_enable": "1",
        "ep.context_embed_mode": "0",
        "ep.context_file_path": job["compiled"],
        "session.record_ep_graph_assignment_info": "1",
    }.items():
        options.add_session_config_entry(key, value)
    options.add_provider_for_devices(static_pipeline.devices(PROVIDER)[:1], _told(job["options"]))
    session = ort.InferenceSession(job["graph"], options)
    taken: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        names = [node.op_type for node in part.get_nodes()]
        (taken if part.ep_name == PROVIDER else left).update(names)
    return {"taken": dict(taken), "left": dict(left)}


def _told(options: dict[str, str]) -> dict[str, str]:
    import onnxruntime_qnn

    return {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **options}


def _logits(job: dict[str, Any]) -> dict[str, Any]:
    """Logits of the compiled folder, float32 (windows, time, vocabulary)."""
    import numpy as np

    folder, scratch = Path(job["folder"]), Path(job["scratch"])
    windows = np.load(job["windows"])  # int64 (windows, time)
    run = static_pipeline.reader(folder, threads=job["threads"], provider=PROVIDER, options=_told(job["options"]))
    logits: Any = None
    for index, window in enumerate(windows):
        rows = run(window)
        if logits is None:
            shape = (*windows.shape, rows.shape[-1])
            logits = np.lib.format.open_memmap(scratch / LOGITS, mode="w+", dtype=np.float32, shape=shape)
        logits[index] = rows
    logits.flush()
    return {}


_STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "build": _build,
    "compile": _compile,
    "logits": _logits,
}


def _main(job: Path) -> None:
    child.die_with_parent()
    child.quiet()
    asked = json.loads(job.read_text(encoding="utf-8"))
    if asked["step"] != "build":
        static_pipeline.register(PROVIDER, "onnxruntime_qnn")
    result = _STEPS[asked["step"]](asked)
    write_atomic(Path(asked["scratch"]) / RESULT, json.dumps(result))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
