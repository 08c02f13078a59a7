"""A cross-encoder of a few bytes whose relevance is known: the sum of its passage's words, each with a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge import bundle

SPECIAL = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}


def write_tiny_reranker(folder: Path, words: Mapping[str, float], *, unknown: float = 0.0, labels: int = 1) -> None:
    """model.onnx and tokenizer.json; words are lower case, `unknown` is the weight of every other one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    table = np.zeros((len(SPECIAL) + len(words), labels), np.float32)
    table[0] = unknown
    table[len(SPECIAL) :] = np.array(list(words.values()), np.float32)[:, None]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["weights"]),  # (b, t, labels)
        helper.make_node("Cast", ["token_type_ids"], ["second"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["second", "last"], ["is_passage"]),
        helper.make_node("Mul", ["weights", "is_passage"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens"], ["logits"], keepdims=0),
    ]
    tensors = {"table": table, "last": np.array([2]), "tokens": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", labels])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / bundle.EMBEDDER_MODEL)

    ids = {**SPECIAL, **{word: len(SPECIAL) + place for place, word in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / bundle.EMBEDDER_TOKENIZER))


def section_of(**changes: object) -> bundle.RerankerSection:
    """The manifest's section for it."""
    plain = {
        "path": "reranker",
        "base": bundle.BaseModel("example/tiny-reranker", "made up", "4" * 64, "Apache-2.0"),
        "max_tokens": 32,
        "activation": "none",
        "query_prefix": "",
        "document_prefix": "",
        "private_bytes": 4096,
    }
    return bundle.RerankerSection(**{**plain, **changes})  # type: ignore[arg-type]
