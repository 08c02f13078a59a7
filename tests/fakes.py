"""Fakes that the tests of several packages share: small, and true to the contract of what they stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge import bundle
from edge.files import sha256_file

BUNDLE_FILES = {
    "model/genai_config.json": b"{}",
    "model/model.onnx.data": bytes(range(256)),
    "model/chat_template.jinja": b"{{ messages }}",
    "embedder/model.onnx": b"graph",
    "embedder/model.onnx.data": b"weights",
    "embedder/tokenizer.json": b"{}",
    "NOTICE.md": b"fake\n",
}


def manifest_of(folder: Path) -> bundle.Manifest:
    """A manifest for the files of a bundle folder, with made-up figures; its hashes and fingerprint are true."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: bundle.FileEntry(sha256_file(folder / name), (folder / name).stat().st_size)
        for name in names
        if name not in (bundle.MANIFEST, bundle.SIDECAR)
    }
    embedder = bundle.EmbedderSection(
        path="embedder",
        base=bundle.BaseModel("example/embedder", "made up", "1" * 64, "Apache-2.0"),
        dim=8,
        pooling="mean",
        max_tokens=64,
        query_prefix="query: ",
        document_prefix="",
        fingerprint="",
    )
    hashes = {name.removeprefix("embedder/"): entry.sha256 for name, entry in files.items() if name[:9] == "embedder/"}
    return bundle.Manifest(
        schema=bundle.schema_of(()),
        name="fake",
        version="1.0.0",
        target="cpu",
        licence="Apache-2.0",
        recipe="fake",
        recipe_digest="2" * 64,
        tools={"onnxruntime": "1.31.1"},
        model=bundle.ModelSection(
            path="model",
            base=bundle.BaseModel("example/model", "made up", "3" * 64, "Apache-2.0"),
            precision="int8",
            quantization={"block_size": 32, "mixed_precision": {}},
            context_tokens=256,
            kv_cache=bundle.KvCache("float32", 1024),
            chat_template="model/chat_template.jinja",
            stop_tokens=(2,),
        ),
        embedder=dataclasses.replace(embedder, fingerprint=bundle.embedder_fingerprint(hashes, embedder)),
        memory=bundle.Memory(weights_bytes=256, model_private_bytes=4096, embedder_private_bytes=4096),
        gate={"kl_nats": 0.01, "thresholds": {"kl_nats": 0.02}},
        files=files,
    )


def write_seal(folder: Path, manifest: bundle.Manifest) -> str:
    """Write the manifest and its sidecar; return the digest."""
    sealed = bundle.seal(manifest)
    for name, content in sealed.files.items():
        (folder / name).write_bytes(content)
    return sealed.digest


def write_bundle(folder: Path) -> Path:
    """A tiny bundle that verifies; no model can be loaded from it."""
    for name, content in BUNDLE_FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_seal(folder, manifest_of(folder))
    return folder


TINY_WORDS = ("alpha", "beta", "gamma", "delta", "query", "passage", ":")


def write_tiny_embedder(
    folder: Path, *, dim: int = 8, types: bool = True, output: str = "last_hidden_state", fill: float | None = None
) -> np.ndarray:
    """model.onnx and tokenizer.json of an embedder whose hidden states are rows of a table, which is returned.

    Row i stands for token i: 0 unknown, 1 and 2 the special tokens before and after, 3... `TINY_WORDS`.

    :param types: whether the model has the input token_type_ids.
    :param fill: a value for the whole table in place of random ones.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    table = np.random.default_rng(0).normal(size=(3 + len(TINY_WORDS), dim)).astype(np.float32)
    if fill is not None:
        table[:] = fill
    axes: list[str | int] = ["b", "t"]
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], [output])],
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in names],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [*axes, dim])],
        [numpy_helper.from_array(table, "table")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )

    ids = {word: i for i, word in enumerate(("[UNK]", "[CLS]", "[SEP]", *TINY_WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(4)  # a file may say so, and it must not be obeyed silently
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    return table
