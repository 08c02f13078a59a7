"""Makes an exported encoder quantizable: attention reads the padding mask itself, not a bias computed from it.

The exporter turns `attention_mask` into a float bias of shape (b, 1, t, t). ONNX Runtime's integer attention
(QAttention) takes no bias, so the projections to query, key and value, a third of the work, would stay in float; it
does take the mask (b, t). The bias also costs some twenty nodes and t x t floats.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import TensorProto, helper

HIDDEN = "last_hidden_state"
_MASK, _MASK_INT32 = "attention_mask", "attention_mask_int32"
_BIAS_INPUT = 5  # of com.microsoft.Attention: input, weights, bias, mask_index, past, attention_bias


def simplify(source: Path, target: Path, output_name: str = HIDDEN) -> int:
    """Write `source` with only the output of that name and with masks for biases; return how many were changed.

    An attention whose bias is more than padding (relative positions, a causal mask) is left as it is.

    :raises ValueError: the model has no such output.
    """
    model = onnx.load(source)
    graph = model.graph
    outputs = [output for output in graph.output if output.name == output_name]
    if not outputs:
        raise ValueError(
            f"the model has no output {output_name}; it has {', '.join(output.name for output in graph.output)}"
        )
    del graph.output[:]
    graph.output.extend(outputs)
    changed = [node for node in graph.node if _is_padded_attention(node, graph)]
    for node in changed:
        node.input[3] = _MASK_INT32
        del node.input[4:]
        kept = [
            attribute for attribute in node.attribute if attribute.name != "qkv_hidden_sizes"
        ]  # equal: says nothing
        del node.attribute[:]
        node.attribute.extend(kept)
    if changed:
        graph.node.insert(0, helper.make_node("Cast", [_MASK], [_MASK_INT32], _MASK_INT32, to=TensorProto.INT32))
    _drop_dead(graph)
    del graph.value_info[:]  # shapes of tensors that may be gone; they are inferred again
    onnx.save(model, target)
    return len(changed)


def _is_padded_attention(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    if node.op_type != "Attention" or node.domain != "com.microsoft":
        return False
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = not attributes.get("unidirectional") and len(set(attributes.get("qkv_hidden_sizes", [0]))) == 1
    given = [bool(name) for name in node.input]
    biased = given == [True, True, True, False, False, True]
    return plain and biased and _comes_from_mask(node.input[_BIAS_INPUT], graph)


def _comes_from_mask(name: str, graph: onnx.GraphProto) -> bool:
    """Whether a tensor is computed from the attention mask, shapes and single numbers: nothing learned."""
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    seen, waiting = set[str](), [name]
    while waiting:
        current = waiting.pop()
        if not current or current in seen:
            continue
        seen.add(current)
        if current in made_by and made_by[current].op_type != "Shape":
            waiting.extend(made_by[current].input)
        tensor = weights.get(current)
        if tensor is not None and tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) > 1:
            return False
    return _MASK in seen and "input_ids" not in seen


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that no output depends on."""
    needed = {output.name for output in graph.output}
    alive = []
    for node in reversed(graph.node):  # nodes are in topological order
        if needed.intersection(node.output):
            needed.update(node.input)
            alive.append(node)
    del graph.node[:]
    graph.node.extend(reversed(alive))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
