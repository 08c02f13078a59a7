"""The embedder's build: the real passes on a random model of a few kilobytes, and each step's own rules."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import embedder_fingerprint
from edge.embed import OnnxEmbedder
from edge.errors import BuildError, GateError
from edge.files import sha256_file
from optimize import attention, embedder, embedder_gate
from optimize.embedder import EmbedderRecipe
from optimize.embedder_gate import EmbedderGate
from optimize.sources import FolderSource, GgufSource, Source

HEADS, WIDTH = 2, 8


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers, hidden size 32, with a word-piece tokenizer trained on the shipped sentences."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = BertWordPieceTokenizer()
    sentences = (embedder_gate.DATA / "embedder" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    tokenizer.train_from_iterator(sentences, vocab_size=400, show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def recipe_for(folder: Path, **changes: object) -> EmbedderRecipe:
    recipe = EmbedderRecipe(
        id="example/tiny-bert",
        licence="Apache-2.0",
        source=Source(folder=FolderSource(folder)),
        max_tokens=256,
        document_prefix="passage: ",
        gate=EmbedderGate(min_mean_cosine=0.9, min_cosine=0.5, max_recall_loss=0.2),
    )
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="module")
def built(tiny_bert: Path, build_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedder")
    embedder.build_embedder(recipe_for(tiny_bert), out)
    return out


def test_build_is_integer_and_leaves_nothing_else(built: Path) -> None:
    assert sorted(path.name for path in built.rglob("*")) == [
        "embedder.json", "model.onnx", "model.onnx.data", "tokenizer.json"
    ]  # fmt: skip
    graph = onnx.load(built / "model.onnx", load_external_data=False).graph
    ops = Counter(node.op_type for node in graph.node)
    assert ops["QAttention"] == 2 and ops["MatMulInteger"] == 6
    assert not {"Attention", "Softmax", "Where"} & set(ops)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert all(node.input[1].startswith("layernorm.mean_weights") for node in products), "a product stayed in float"
    assert [output.name for output in graph.output] == ["last_hidden_state"]
    weights = [tensor for tensor in graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert weights and all(tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 for tensor in weights)


def test_build_gives_the_original_vectors(built: Path, tiny_bert: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_bert)
    texts = ["A loose terminal caused the fault.", "Wie alt ist die Brücke?", "x " * 60]
    origin = embedder_gate.Reference(tiny_bert, "mean", 256)
    prefixed = [recipe.document_prefix + text for text in texts]
    theirs = embedder_gate.reference_vectors(origin, prefixed, tmp_path, "test")
    section = embedder.section(recipe, built, "embedder")
    assert section.dim == 32 and section.path == "embedder"
    with OnnxEmbedder(built, section, threads=1) as ours:
        cosines = np.sum(ours.embed_documents(texts) * theirs, axis=1)
    assert cosines.min() > 0.95


def test_section_and_figures(built: Path, tiny_bert: Path) -> None:
    recipe = recipe_for(tiny_bert)
    section = embedder.section(recipe, built, "embedder")
    hashes = {path.name: sha256_file(path) for path in built.iterdir()}
    assert section.fingerprint == embedder_fingerprint(hashes, section)
    assert section.fingerprint != embedder.section(recipe_for(tiny_bert, document_prefix=""), built, "e").fingerprint
    figures = embedder.gate_figures(built)
    assert figures["mean_cosine"] > 0.9 and figures["thresholds"]["mean_cosine"] == 0.9
    assert str(tiny_bert) not in json.dumps(dataclasses.asdict(section))
    assert 0 <= embedder.private_bytes(built) < 64 * 2**20


def test_source_without_a_tokenizer(tiny_bert: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match=r"example/tiny-bert has no tokenizer\.json"):
        embedder.build_embedder(recipe_for(tmp_path / "bert"), tmp_path)


def test_recipe_refuses_what_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not from GGUF"):
        recipe_for(tmp_path, source=Source(gguf=GgufSource(tmp_path / "x.gguf", "0" * 64)))
    with pytest.raises(ValueError, match="at least 32"):
        recipe_for(tmp_path, max_tokens=16)
    with pytest.raises(ValueError, match="min_cosine"):
        EmbedderGate(min_mean_cosine=0.5, min_cosine=0.9)


GOOD = {"texts": 9, "mean_cosine": 0.995, "min_cosine": 0.97, "recall_at_5": 0.40, "reference_recall_at_5": 0.405}


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"mean_cosine": 0.9899}, "mean_cosine"),
        ({"min_cosine": 0.95}, "min_cosine"),
        ({"recall_at_5": 0.39}, "recall_at_5"),
        ({"mean_cosine": float("nan")}, "mean_cosine"),
    ],
)
def test_gate(change: dict[str, float], failed: str) -> None:
    assert embedder_gate.judge(GOOD, EmbedderGate())["thresholds"]["recall_at_5"] == pytest.approx(0.4)
    with pytest.raises(GateError) as error:
        embedder_gate.judge({**GOOD, **change}, EmbedderGate())
    lines = {line.split()[0]: line for line in str(error.value).splitlines() if "must be" in line}
    assert [name for name, line in lines.items() if "FAILED" in line] == [failed]
    assert error.value.exit_code == 4


def test_shipped_texts_hold_several_languages_and_a_document_for_each_question() -> None:
    texts = embedder_gate.shipped_texts(lambda text: len(text) < 900)
    assert len(texts.questions) == len(texts.answers) >= 100
    assert "Regningen skal betales innen fjorten dager." in texts.documents
    assert texts.questions[0] not in texts.documents[0]
    assert len(texts.documents) < len(embedder_gate.shipped_texts(lambda text: True).documents)


def attention_model(path: Path, *, learned: bool = False, causal: bool = False) -> None:
    """One attention as the exporter writes it: the padding mask becomes a bias of shape (b, 1, t, t)."""
    rng = np.random.default_rng(5)
    tensors = {
        "weight": rng.normal(size=(WIDTH, 3 * WIDTH)).astype(np.float32),
        "weight_bias": rng.normal(size=3 * WIDTH).astype(np.float32),
        "table": rng.normal(size=(11, WIDTH)).astype(np.float32),
        "axes": np.array([1, 2]),
        "one": np.float32(1),
        "low": np.float32(-1e9),
        "positions": rng.normal(size=(1, HEADS, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "axes"], ["row"]),
        helper.make_node("Sub", ["one", "row"], ["hole"]),
        helper.make_node("Mul", ["hole", "low"], ["short"]),
        helper.make_node("Shape", ["input_ids"], ["t"], start=1),
        helper.make_node("Concat", ["t", "t"], ["square"], axis=0),
        helper.make_node("Expand", ["short", "square"], ["padding"]),
        helper.make_node("Add", ["padding", "positions"], ["relative"]),
        helper.make_node(
            "Attention",
            ["hidden", "weight", "weight_bias", "", "", "relative" if learned else "padding"],
            ["last_hidden_state"],
            domain="com.microsoft",
            num_heads=HEADS,
            unidirectional=int(causal),
            qkv_hidden_sizes=[WIDTH] * 3,
        ),
        helper.make_node("Tanh", ["last_hidden_state"], ["pooler"]),
    ]
    whole = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", "t", WIDTH]) for n in ("last_hidden_state", "pooler")
    ]
    graph = helper.make_graph(
        nodes, "attention", whole, ends, [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def hidden_of(path: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    feed = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    hidden: NDArray[np.float32] = session.run(["last_hidden_state"], feed)[0]
    return hidden


def test_mask_in_place_of_bias_computes_the_same(tmp_path: Path) -> None:
    attention_model(tmp_path / "before.onnx")
    assert attention.simplify(tmp_path / "before.onnx", tmp_path / "after.onnx") == 1
    before, after = hidden_of(tmp_path / "before.onnx"), hidden_of(tmp_path / "after.onnx")
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)
    np.testing.assert_allclose(after[1, :3], before[1, :3], atol=1e-5)
    graph = onnx.load(tmp_path / "after.onnx").graph
    assert [node.op_type for node in graph.node] == ["Cast", "Gather", "Attention"]
    assert [output.name for output in graph.output] == ["last_hidden_state"]
    assert {tensor.name for tensor in graph.initializer} == {"weight", "weight_bias", "table"}


@pytest.mark.parametrize("kind", ["learned", "causal"])
def test_attention_that_is_more_than_padding_is_left_alone(tmp_path: Path, kind: str) -> None:
    attention_model(tmp_path / "before.onnx", **{kind: True})
    assert attention.simplify(tmp_path / "before.onnx", tmp_path / "after.onnx") == 0
    np.testing.assert_array_equal(hidden_of(tmp_path / "after.onnx"), hidden_of(tmp_path / "before.onnx"))


def test_model_without_hidden_states(tmp_path: Path) -> None:
    attention_model(tmp_path / "before.onnx")
    model = onnx.load(tmp_path / "before.onnx")
    del model.graph.output[0]
    onnx.save(model, tmp_path / "before.onnx")
    with pytest.raises(ValueError, match="no output last_hidden_state; it has pooler"):
        attention.simplify(tmp_path / "before.onnx", tmp_path / "after.onnx")
