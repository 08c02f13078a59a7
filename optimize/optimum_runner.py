"""The only door to Optimum: one step in its own environment. Not imported there or here but run.

    PYTHON_OF_THE_ENVIRONMENT -m optimize.optimum_runner JOB.json

`export`: PyTorch -> ONNX with attention, layer norms and GELUs fused (`ORTModelFor...`, `ORTOptimizer`). `quantize`:
weights to int8 with a scale per column, activations as they come (`ORTQuantizer`).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from optimize import child


def _export(job: dict[str, Any]) -> None:
    from optimum.onnxruntime import (
        ORTModelForFeatureExtraction,
        ORTModelForSequenceClassification,
        ORTOptimizer,
    )
    from optimum.onnxruntime.configuration import OptimizationConfig

    tasks = {
        "feature-extraction": ORTModelForFeatureExtraction,
        "text-classification": ORTModelForSequenceClassification,
    }
    out = Path(job["out"])
    plain = out / "plain"
    model = tasks[job["task"]].from_pretrained(job["source"], export=True)
    model.save_pretrained(plain)
    # 1: what ONNX Runtime fuses for every processor alike, and the patterns of transformers
    options = OptimizationConfig(optimization_level=1, enable_transformers_specific_optimizations=True)
    optimizer = ORTOptimizer.from_pretrained(plain)
    optimizer.optimize(options, save_dir=out, file_suffix=None)
    shutil.rmtree(plain)


def _quantize(job: dict[str, Any]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import QuantizationConfig

    graph = Path(job["source"])
    _name_types(graph)
    options = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        activations_dtype=QuantType.QUInt8,
        weights_dtype=QuantType.QInt8,
        per_channel=True,
        reduce_range=job["reduce_range"],
        operators_to_quantize=["MatMul", "Gemm", "Attention", "EmbedLayerNormalization", "Gather"],
    )
    quantizer = ORTQuantizer.from_pretrained(graph.parent, file_name=graph.name)
    quantizer.quantize(quantization_config=options, save_dir=job["out"], file_suffix=None)
    (Path(job["out"]) / graph.name).replace(Path(job["out"]) / "model.onnx")


def _name_types(graph: Path) -> None:
    """Say of every matrix product that it gives floats: shape inference stops at the fused operators before them."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(graph)
    names = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            names.append(node.output[0])
        if node.op_type == "Gemm":
            names.append(f"{node.output[0]}_MatMul")  # as the quantizer, which parts it in two, calls the first
    model.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    onnx.save(model, graph)


def _main(job: Path) -> None:
    child.die_with_parent()
    child.quiet()
    asked = json.loads(job.read_text(encoding="utf-8"))
    {"export": _export, "quantize": _quantize}[asked["step"]](asked)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
