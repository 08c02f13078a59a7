"""The bundle: the only bridge between `optimize`, which writes it, and `edge`, which reads it. See docs/bundle.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1
MANIFEST = "manifest.yaml"
SIDECAR = "manifest.yaml.sha256"


@dataclass(frozen=True)
class BaseModel:
    id: str  # e.g. "HuggingFaceTB/SmolLM2-135M-Instruct"
    source: str  # where the bytes came from, in words
    sha256: str  # of the weights file as fetched
    licence: str  # SPDX identifier


@dataclass(frozen=True)
class KvCache:
    dtype: Literal["float32", "float16", "int8"]
    bytes_per_token: int  # all layers, keys and values


@dataclass(frozen=True)
class ModelSection:
    path: str  # folder inside the bundle
    base: BaseModel
    precision: str  # "int4", "int8", "fp32"
    quantization: dict[str, Any]  # the recipe keys that shaped the weights
    context_tokens: int  # prompt and answer together
    kv_cache: KvCache
    chat_template: str  # file inside the bundle
    stop_tokens: tuple[int, ...]
    special_tokens: tuple[str, ...] = ()  # as written in text; defused where a document or a question holds them


@dataclass(frozen=True)
class EmbedderSection:
    path: str  # folder inside the bundle: model.onnx, tokenizer.json
    base: BaseModel
    dim: int
    pooling: Literal["mean", "cls"]
    max_tokens: int  # special tokens included
    query_prefix: str
    document_prefix: str
    fingerprint: str  # vectors of two embedders compare only where this is equal


@dataclass(frozen=True)
class Memory:
    """Bytes, measured when the bundle was built."""

    weights_bytes: int
    model_private_bytes: int  # RssAnon added by loading the model, before any prompt
    embedder_private_bytes: int  # RssAnon added by loading the embedder and embedding 1 x max_tokens


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    schema: int
    name: str
    version: str
    target: str  # "cpu"
    licence: str  # of the whole, SPDX expression
    recipe: str  # its name
    recipe_digest: str  # sha256 over everything that decides the result
    tools: dict[str, str]  # package -> version
    model: ModelSection
    embedder: EmbedderSection
    memory: Memory
    gate: dict[str, Any]  # what the quality gate measured, with its thresholds
    files: dict[str, FileEntry] = field(default_factory=dict)  # POSIX path inside the bundle -> hash and size
