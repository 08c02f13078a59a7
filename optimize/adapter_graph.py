"""Surgery that lets an ONNX build take LoRA adapters at run time: y = xW becomes y = xW + (xA)B, with A and B inputs.

A and B (Hu et al. 2021, arXiv:2106.09685; alpha / rank is part of B) are graph inputs with empty defaults, of rank 0:
without an adapter the sum is the build's own y. The weights, the LM head and the KV cache stay as they were built.

The model builder can do this too, but then it fuses no projections that are adapted (q, k and v; gate and up), which
costs the base more than the sums themselves. Here a fused projection gets one A, its parts' beside each other, and one
B, its parts' on the diagonal, so that it takes three more nodes rather than three for each part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from optimize.head import GRAPH

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Projections that the builder puts together, with their parts in the order of their outputs."""
_PROJECTION = re.compile(r"/model/layers\.(?P<layer>\d+)/(?P<block>attn|mlp)/(?P<kind>\w+_proj)/MatMul(_Q\d+)?")
_BLOCKS = {"attn": "self_attn", "mlp": "mlp"}  # the builder's name -> transformers'
Shapes = Mapping[str, list[int]]
"""Of a Hugging Face folder's weights, by name: [outputs, inputs] for a projection."""


@dataclass(frozen=True)
class Site:
    """A projection of the build that takes an adapter."""

    node: str
    name: str  # as its weights are called in the graph, e.g. model.layers.0.attn.qkv_proj
    parts: tuple[str, ...]  # the base's projections in it, e.g. model.layers.0.self_attn.q_proj
    inputs: int
    outputs: tuple[int, ...]  # of each part

    @property
    def a(self) -> str:
        """Graph input, float32 (inputs, rank)."""
        return f"{self.name}.lora_A.MatMul.weight"

    @property
    def b(self) -> str:
        """Graph input, float32 (rank, outputs)."""
        return f"{self.name}.lora_B.MatMul.weight"


def sites(folder: Path, base: Shapes, kinds: set[str]) -> list[Site]:
    """The projections of the build in `folder` that hold one of `kinds`, e.g. q_proj.

    :param base: shapes of the base's weights.
    :raises BuildError: a layer of the base that has such a projection is not found in the build.
    """
    import onnx

    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    found = [site for node in graph.node if (site := _site(node, base, kinds))]
    wanted = {
        name.removesuffix(".weight") for name in base if name.endswith(tuple(f".{kind}.weight" for kind in kinds))
    }
    if missing := sorted(wanted - {part for site in found for part in site.parts}):
        raise BuildError(f"the build has no projection for {', '.join(missing[:3])}: adapters cannot be added to it")
    return found


def add_inputs(folder: Path, found: list[Site]) -> None:
    """Give the build in `folder` the inputs of `found`, in place; its file of weights is not touched."""
    import onnx

    model = onnx.load(folder / GRAPH, load_external_data=False)
    nodes = {node.name: node for node in model.graph.node}
    for site in found:
        _add(model.graph, nodes[site.node], site)
    onnx.save(model, folder / GRAPH)


def input_shapes(folder: Path) -> dict[str, tuple[int | str, int | str]]:
    """Names and shapes of the build's inputs for adapters; a rank, free until run time, is a string."""
    import onnx

    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    shapes = {}
    for given in graph.input:
        if ".lora_" in given.name:
            rows, columns = (dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim)
            shapes[given.name] = (rows, columns)
    return shapes


def fill(folder: Path, weights: Mapping[str, Any]) -> None:
    """Make an adapter's weights the defaults of the build's inputs, in place: a build with this adapter always on.

    :param weights: float32 arrays by input name; inputs that are not named stay empty.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / GRAPH, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    onnx.save(model, folder / GRAPH)


def _site(node: Any, base: Shapes, kinds: set[str]) -> Site | None:
    match = _PROJECTION.fullmatch(node.name)
    if match is None or node.op_type not in ("MatMul", "MatMulNBits"):
        return None
    layer, block, kind = match["layer"], match["block"], match["kind"]
    below = f"model.layers.{layer}.{_BLOCKS[block]}"
    members = (kind,) if f"{below}.{kind}.weight" in base else FUSED.get(kind, ())
    if not kinds.intersection(members):
        return None
    parts = tuple(f"{below}.{member}" for member in members)
    shapes = [base[f"{part}.weight"] for part in parts]
    return Site(node.name, f"model.layers.{layer}.{block}.{kind}", parts, shapes[0][1], tuple(s[0] for s in shapes))


def _add(graph: Any, node: Any, site: Site) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rank = f"{site.name}.lora_r"
    inputs, outputs = site.inputs, sum(site.outputs)
    for name, dims, empty in ((site.a, (inputs, rank), (inputs, 0)), (site.b, (rank, outputs), (0, outputs))):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        graph.initializer.append(numpy_helper.from_array(np.zeros(empty, np.float32), name))
    output, at = node.output[0], f"{node.name.rpartition('/')[0]}/lora"
    node.output[0] = f"{at}/base"
    added = [
        helper.make_node("MatMul", [node.input[0], site.a], [f"{at}/low"], f"{at}/A"),
        helper.make_node("MatMul", [f"{at}/low", site.b], [f"{at}/delta"], f"{at}/B"),
        helper.make_node("Add", [f"{at}/base", f"{at}/delta"], [output], f"{at}/Add"),
    ]
    place = list(graph.node).index(node) + 1
    for offset, one in enumerate(added):
        graph.node.insert(place + offset, one)
