"""Layer norms in primitive operators give what ONNX Runtime's own kernels give."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize import layernorm

SHAPE = (1, 7, 32)


def model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=32).astype(np.float32), name) for name in ("g", "b", "c")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xyo"]
    graph = helper.make_graph(nodes, "test", values[:2], values[2:], weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(built: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    return session.run(None, {name: rng.normal(size=SHAPE).astype(np.float32) for name in "xy"})[0]


CASES = {
    "plain": [
        helper.make_node("Add", ["x", "y"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "g", "b"], ["o"], axis=-1, epsilon=1e-12),
    ],
    "without bias": [
        helper.make_node("Add", ["x", "y"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "g"], ["o"]),
    ],
    "skip": [helper.make_node("SkipLayerNormalization", ["x", "y", "g", "b"], ["o"], domain="com.microsoft")],
    "skip, bias and sum": [
        helper.make_node(
            "SkipLayerNormalization", ["x", "y", "g", "b", "c"], ["n", "", "", "s"], domain="com.microsoft"
        ),
        helper.make_node("Add", ["n", "s"], ["o"]),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_the_same(name: str) -> None:
    built = model(CASES[name])
    before = run(built)
    assert layernorm.decompose(built) == 1
    assert not [node for node in built.graph.node if "LayerNormalization" in node.op_type]
    np.testing.assert_allclose(run(built), before, atol=2e-5)


def test_one_over_another_axis_is_left_alone() -> None:
    built = model(
        [
            helper.make_node("Add", ["x", "y"], ["s"]),
            helper.make_node("LayerNormalization", ["s", "g"], ["o"], axis=2),
        ]
    )
    assert layernorm.decompose(built) == 0
