"""Surgery on the LM head: one table of weights for head and embedding, and logits for no more rows than are used.

`limit_logits` is undone, in memory, by `whole_logits`: the quality gate wants the logits of every position.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.errors import BuildError

GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
_LAST = "/lm_head/last"  # names of the nodes that `limit_logits` adds start so


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


def limit_logits(folder: Path, rows: int) -> None:
    """Let the head compute the logits of the last `rows` positions only, in place; those before become zeros.

    Reading a prompt needs the logits of its last token, checking a draft of k tokens those of the last k + 1. The
    generator wants an output row for every position, so the others are there but cost no product.

    :raises BuildError: the graph has not the shape that the builder gives it.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(folder / GRAPH, load_external_data=False)
    graph = model.graph
    head = next((n for n in graph.node if n.name.startswith("/lm_head/MatMul")), None)
    tail = next((n for n in graph.node if "logits" in n.output), None)  # the head, or its bias, scale or cap
    if head is None or tail is None or not tail.name.startswith("/lm_head/"):
        raise BuildError("logits_rows: found no LM head that ends the graph; set model.logits_rows to 0")
    hidden = head.input[0]
    for name, values in {"from": [-rows], "to": [np.iinfo(np.int32).max], "axis": [1], "none": [0]}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{_LAST}/{name}"))
    head.input[0], tail.output[0] = f"{_LAST}/hidden", f"{_LAST}/logits"
    before = helper.make_node(
        "Slice", [hidden, f"{_LAST}/from", f"{_LAST}/to", f"{_LAST}/axis"], [head.input[0]], f"{_LAST}/Slice"
    )
    after = [
        helper.make_node("Shape", [hidden], [f"{_LAST}/all"], f"{_LAST}/All", start=1, end=2),
        helper.make_node("Shape", [head.input[0]], [f"{_LAST}/kept"], f"{_LAST}/Kept", start=1, end=2),
        helper.make_node("Sub", [f"{_LAST}/all", f"{_LAST}/kept"], [f"{_LAST}/left"], f"{_LAST}/Left"),
        helper.make_node("Concat", [f"{_LAST}/left", f"{_LAST}/none"], [f"{_LAST}/pads"], f"{_LAST}/Pads", axis=0),
        helper.make_node("Pad", [tail.output[0], f"{_LAST}/pads", "", f"{_LAST}/axis"], ["logits"], f"{_LAST}/Pad"),
    ]
    graph.node.insert(list(graph.node).index(head), before)
    place = list(graph.node).index(tail) + 1
    for offset, node in enumerate(after):
        graph.node.insert(place + offset, node)
    _forget_shapes(graph)
    onnx.save(model, folder / GRAPH)


def whole_logits(graph: bytes) -> bytes:
    """The same ONNX graph (without its weights) with logits for every position.

    Bypasses what `limit_logits` added, and the Gather and Unsqueeze that the builder puts before a pruned head; a graph
    with neither is returned as it is.
    """
    import onnx

    model = onnx.ModelProto.FromString(graph)
    nodes = {node.name: node for node in model.graph.node}
    head = next((node for name, node in nodes.items() if name.startswith("/lm_head/MatMul")), None)
    gather = nodes.get("/lm_head/prune/Gather") or nodes.get(f"{_LAST}/Slice")
    if head is None or gather is None:
        return graph
    head.input[0] = gather.input[0]
    if tail := next((node for node in model.graph.node if f"{_LAST}/logits" in node.output), None):
        tail.output[0] = "logits"
    for node in [node for name, node in nodes.items() if name.startswith(("/lm_head/prune/", f"{_LAST}/"))]:
        model.graph.node.remove(node)
    for output in model.graph.output:
        if output.name == "logits":
            output.type.tensor_type.shape.dim[1].Clear()
            output.type.tensor_type.shape.dim[1].dim_param = "sequence_length"
    _forget_shapes(model.graph)
    return bytes(model.SerializeToString())


def _forget_shapes(graph: Any) -> None:
    """Drop the shapes that the builder noted for what the head computes: the rows are others now."""
    kept = [value for value in graph.value_info if not value.name.startswith("/lm_head/")]
    del graph.value_info[:]
    graph.value_info.extend(kept)
