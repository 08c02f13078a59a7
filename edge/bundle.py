"""The bundle: the only bridge between `optimize`, which writes it, and `edge`, which reads it. See docs/bundle.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from edge import bundle_files
from edge.bundle_files import AGAIN
from edge.bundle_targets import TargetEntry
from edge.config import parse, to_plain, to_yaml
from edge.errors import BundleError, ConfigError

SCHEMA = 2
"""The newest that is read. 2: `targets`, `reranker`; a bundle without is schema 1, which older programs read."""
MANIFEST = "manifest.yaml"
SIDECAR = "manifest.yaml.sha256"
MODEL_CONFIG = "genai_config.json"
EMBEDDER_MODEL = "model.onnx"
EMBEDDER_TOKENIZER = "tokenizer.json"
_EMBEDDING_PROCEDURE = 1
"""Raise it when edge/embed.py would make another vector of the same files: indexes are then refused, not mixed."""


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
class AdapterEntry:
    """LoRA weights beside the model, for requests that name them."""

    name: str
    path: str  # file inside the bundle, in ONNX Runtime's format
    sha256: str  # of the file, as among `files`
    bytes: int
    rank: int
    base_sha256: str  # of the fp32 weights that it belongs to
    answers: Literal["free", "marked"] = "free"  # what the model writes with it
    languages: tuple[str, ...] = ()  # ISO 639-1: of the passages that it was tuned to read; empty: any


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
    answers: Literal["free", "marked"] = "free"  # marked: tuned to cite, and to say so where passages hold no answer
    languages: tuple[str, ...] = ()  # ISO 639-1: of the passages that the tuning covers; empty: any
    adapters: tuple[AdapterEntry, ...] = ()  # one of them, or none, for each request


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
class RerankerSection:
    """A cross-encoder: it reads a question and a passage together and says how well one answers the other."""

    path: str  # folder inside the bundle: model.onnx, tokenizer.json
    base: BaseModel
    max_tokens: int  # question, passage and special tokens
    activation: Literal["sigmoid", "none"]  # makes the relevance of the model's output
    query_prefix: str
    document_prefix: str
    private_bytes: int  # RssAnon added by loading it and scoring 1 x max_tokens, measured when it was built


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
    target: str  # of the recipe: "cpu", or the accelerator that `targets` describes
    licence: str  # of the whole, SPDX expression
    recipe: str  # its name
    recipe_digest: str  # sha256 over everything that decides the result
    tools: dict[str, str]  # package -> version
    model: ModelSection
    embedder: EmbedderSection
    memory: Memory
    gate: dict[str, Any]  # what the quality gate measured, with its thresholds
    files: dict[str, FileEntry] = field(default_factory=dict)  # POSIX path inside the bundle -> hash and size
    targets: tuple[TargetEntry, ...] = ()  # further forms of the model; `model` is what the CPU runs, always
    reranker: RerankerSection | None = None


def schema_of(targets: tuple[TargetEntry, ...], reranker: RerankerSection | None = None) -> int:
    """The lowest schema that says it all."""
    return 2 if targets or reranker else 1


@dataclass(frozen=True)
class Bundle:
    """A bundle that was found in order; `digest`, the sha256 of its manifest's bytes, stands for all of its content."""

    path: Path
    manifest: Manifest
    digest: str


@dataclass(frozen=True)
class Seal:
    """The two files that are written last into a bundle: name -> bytes, and the manifest's digest."""

    files: dict[str, bytes]
    digest: str


def load(path: Path) -> Bundle:
    """Read a bundle's manifest and check what is cheap to check: its digest, schema and paths, every file's size.

    :raises BundleError: something does not hold; names the file and says what to do.
    """
    text, digest = _read_manifest(path)
    manifest = parse_manifest(text, str(path / MANIFEST))
    _check_paths(manifest, str(path / MANIFEST))
    for name, entry in manifest.files.items():
        size = bundle_files.size(path, name)
        if size != entry.bytes:
            raise BundleError(f"{path / name}: {size} bytes, the manifest says {entry.bytes}. {AGAIN}")
    return Bundle(path, manifest, digest)


def verify(path: Path) -> Bundle:
    """Read every byte of a bundle and compare it with the manifest; nothing is missing and nothing is there besides.

    :raises BundleError: something does not hold; names the file and says what to do.
    """
    bundle = load(path)
    files, embedder = bundle.manifest.files, bundle.manifest.embedder
    for name in bundle_files.walk(path):
        if name not in files and name not in (MANIFEST, SIDECAR):
            raise BundleError(f"{path / name}: not in the manifest. Remove it")
    for name, entry in files.items():
        if bundle_files.sha256(path, name) != entry.sha256:
            raise BundleError(f"{path / name}: damaged or changed, its sha256 is not the manifest's. {AGAIN}")
    below = f"{embedder.path}/"
    hashes = {name.removeprefix(below): entry.sha256 for name, entry in files.items() if name.startswith(below)}
    if embedder_fingerprint(hashes, embedder) != embedder.fingerprint:
        raise BundleError(f"{path / MANIFEST}: embedder.fingerprint is not that of the embedder's files. {AGAIN}")
    return bundle


def chat_template(bundle: Bundle) -> str:
    """The text of the bundle's chat template (Jinja).

    :raises BundleError: it cannot be read.
    """
    path = bundle.path / bundle.manifest.model.chat_template
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: cannot be read: {error}. {AGAIN}") from None


def parse_manifest(text: str, name: str) -> Manifest:
    """The manifest, from its text; `name` stands for it in errors. No file is looked at.

    Its schema comes first, because a newer one may have keys that are unknown here.

    :raises BundleError: it is no manifest, or of a newer schema.
    """
    try:
        plain = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not YAML: {' '.join(str(error).split())}. {AGAIN}") from None
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if type(schema) is not int or schema < 1:
        raise BundleError(f"{name}: it has no schema number, so it is not the manifest of a bundle. {AGAIN}")
    if schema > SCHEMA:
        raise BundleError(
            f"{name}: written in the newer schema {schema}; this program reads up to schema {SCHEMA}. "
            "Update edge-slm here, or build the bundle with the version that is installed here"
        )
    try:
        return parse(Manifest, text, name)
    except ConfigError as error:
        raise BundleError(f"{error}. {AGAIN}") from None


def seal(manifest: Manifest) -> Seal:
    """Manifest and sidecar as bytes, the same for the same manifest.

    :raises BundleError: `load` would refuse it: a path leaves the bundle, or a file that every bundle has is missing.
    """
    _check_paths(manifest, MANIFEST)
    plain = to_plain(manifest)
    for name in ("targets", "reranker"):
        if not plain[name]:
            del plain[name]  # schema 1 does not know it
    data = to_yaml(plain).encode()
    digest = hashlib.sha256(data).hexdigest()
    return Seal({MANIFEST: data, SIDECAR: _sidecar(digest)}, digest)


def embedder_fingerprint(hashes: Mapping[str, str], section: EmbedderSection) -> str:
    """Hex sha256 over all that decides a vector; `section.fingerprint` is not read.

    :param hashes: sha256 of the files in the embedder's folder, by name; those that decide no vector are left out.
    """
    deciding = {
        name: sha256
        for name, sha256 in hashes.items()
        if name in (EMBEDDER_TOKENIZER, EMBEDDER_MODEL) or name.startswith(f"{EMBEDDER_MODEL}.")
    }
    decides = {
        "procedure": _EMBEDDING_PROCEDURE,
        "files": deciding,
        "pooling": section.pooling,
        "max_tokens": section.max_tokens,
        "query_prefix": section.query_prefix,
        "document_prefix": section.document_prefix,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _sidecar(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()  # as `sha256sum -c` reads it


def _read_manifest(path: Path) -> tuple[str, str]:
    """Text and digest of the manifest, once its sidecar agrees."""
    if not path.is_dir():
        raise BundleError(
            f"{path}: no bundle there. Build one with `edge optimize run RECIPE --out {path}`, "
            "or name another with --bundle"
        )
    for name in (MANIFEST, SIDECAR):
        bundle_files.size(path, name)
    try:
        data, sidecar = (path / MANIFEST).read_bytes(), (path / SIDECAR).read_bytes()
    except OSError as error:
        raise BundleError(f"{error.filename}: cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if sidecar != _sidecar(digest):
        raise BundleError(f"{path / MANIFEST}: its sha256 is not the one in {SIDECAR}: one was changed. {AGAIN}")
    try:
        return data.decode("utf-8"), digest
    except UnicodeDecodeError:
        raise BundleError(f"{path / MANIFEST}: not UTF-8 text. {AGAIN}") from None


def _check_paths(manifest: Manifest, name: str) -> None:
    """Every path stays inside the bundle, and what the sections point at is among the files."""
    model, embedder = manifest.model, manifest.embedder
    generators = (model.path, *(target.path for target in manifest.targets))
    encoders = (embedder.path, *([manifest.reranker.path] if manifest.reranker else []))
    folders = (*generators, *encoders)
    for path in (*manifest.files, model.chat_template, *folders):
        if not bundle_files.is_plain(path) or path in (MANIFEST, SIDECAR):
            raise BundleError(f"{name}: the path {path!r} leaves the bundle or may not stand there. {AGAIN}")
    if len(set(folders)) < len(folders):
        raise BundleError(f"{name}: two parts have one folder. {AGAIN}")
    needed = [model.chat_template]
    needed += [str(PurePosixPath(path, MODEL_CONFIG)) for path in generators]
    needed += [str(PurePosixPath(path, file)) for path in encoders for file in (EMBEDDER_MODEL, EMBEDDER_TOKENIZER)]
    for path in (*needed, *(adapter.path for adapter in model.adapters)):
        if path not in manifest.files:
            raise BundleError(f"{name}: {path} is not among its files. {AGAIN}")
    for adapter in model.adapters:
        if manifest.files[adapter.path] != FileEntry(adapter.sha256, adapter.bytes):
            raise BundleError(f"{name}: adapter {adapter.name} and the file {adapter.path} do not agree. {AGAIN}")
    if len({adapter.name for adapter in model.adapters}) < len(model.adapters):
        raise BundleError(f"{name}: two adapters have one name. {AGAIN}")
