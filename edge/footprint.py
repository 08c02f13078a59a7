"""What each part takes: read from the bundle, the index and this machine where they say, else measured once.

The measured figures stand here and nowhere else, with how they were measured. `edge plan --measure` prints planned
against measured, and `tests/process/test_memory_limit.py` holds the sum within 10%.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.budget import Part, Parts
from edge.bundle import EMBEDDER_MODEL, MODEL_CONFIG, Bundle, ModelSection
from edge.errors import BudgetExceeded, BundleError
from edge.machine import status_bytes
from edge.mapped import read_used
from edge.memory import Limit, limit
from edge.sizes import parse_size

if TYPE_CHECKING:
    from edge.config import EdgeConfig

_MIB = 2**20

# Measured on x86-64 Linux, glibc, CPython 3.11, onnxruntime 1.31, onnxruntime-genai 0.18, tokenizers 0.23, numpy 2.4:
# RssAnon and the resident part of mapped files, before and after, in a fresh process. Hot is what one token of decoding
# touches again (clear_refs and Referenced of /proc/PID/smaps).
_IMPORTS = {"click": 3 * _MIB, "yaml": 2 * _MIB, "edge.answer": 2 * _MIB}
"""Private bytes that importing adds; counted for what is not imported yet when the ledger is made."""
_PARENT_MAPPED = Part(0, 10 * _MIB, 2 * _MIB)
_INTERPRETER_BYTES = 9 * _MIB  # with the modules of this package that open a box
_RETRIEVAL = Part(18 * _MIB, 28 * _MIB, 1 * _MIB)  # onnxruntime and its copy of the runtime are half of it
_RETRIEVAL_IMPORTS = {"numpy": 8 * _MIB, "apsw": 2 * _MIB, "onnxruntime": 7 * _MIB, "tokenizers": 1 * _MIB}
# Beyond the files that the parent maps too. Hot are 5 MiB of the libraries; page tables and sockets take 3 more.
_WORKER = Part(10 * _MIB, 22 * _MIB, 8 * _MIB)
_TOKENIZER_FACTOR = 4.9  # private bytes per byte of tokenizer.json, once what reading it took has been given back
_ACTIVATION_BYTES_PER_HIDDEN = 110  # prefill, per token of a piece and unit of the hidden size; 64 to 512 tokens alike
_GUIDANCE_BYTES_PER_TOKEN = (
    950  # of the vocabulary: 44 MiB for 49,152 tokens with the first grammar, 33 MiB from then on
)
_UNPACKED_MAPPED_SHARE = 0.3  # of the bundle's weights: what stays mapped once a load has read them
_PREPARED_GROWTH = 1.12  # packed weights, over the bundle's own
_PREPARED_PRIVATE_BYTES = 6 * _MIB  # of a load
_TABLE_ROWS_BYTES = 4 * _MIB  # of the embedding table, for the words of a long prompt
_PREPARING_FACTOR = 1.33  # private memory of packing, over what a load without it takes
_EMBEDDER_MAPPED_SHARE = 0.5  # of its weight file
_EMBEDDER_ROW_BYTES = 11 * _MIB  # one more text of 256 tokens at the same time
_PARSER = Part(97 * _MIB, 8 * _MIB, 2 * _MIB)  # text formats, with the language model (75 MiB); Office formats 175 MiB
PARSER_RESERVED_BYTES = 72 * _MIB  # address space that numpy reserves and never touches; RLIMIT_DATA counts it
_SQLITE_BYTES = 4 * _MIB  # edge.store.connect.CACHE_BYTES, which a smaller index does not fill
_INGEST_BYTES = 8 * _MIB  # what an ingest imports and holds besides: chunker, progress bar, one document
_CHUNK_FILE_BYTES = 2500  # of the index file, for one chunk: 2,200 without text, 4,100 with
_CHUNK_SIGNS_BYTES = 50  # a bit for each of 384 dimensions, and an offset
_SEARCH_BYTES = 7 * _MIB  # of a search in 100,000 chunks by signs, for a moment; edge.store.resident says it exactly


def parts_of(
    bundle: Bundle,
    config: EdgeConfig,
    *,
    threads: int,
    prepared: Path | None,
    index_bytes: int = 0,
    serves: bool = False,
) -> Parts:
    """What the ledger is made of, for a bundle on this machine.

    :param prepared: folder of the weights packed for this CPU; None where the bundle's own are loaded.
    :param index_bytes: size of the index file.
    :param serves: for a daemon, whose clients may ask the reranker whether the configuration asks it or not.
    :raises BundleError: the model's configuration cannot be read.
    """
    manifest = bundle.manifest
    model, sizes = manifest.model, {name: entry.bytes for name, entry in manifest.files.items()}
    hidden_size, vocab_size = _decoder(bundle.path / model.path / MODEL_CONFIG)
    return Parts(
        weights=_weights(bundle, prepared),
        prepared=prepared is not None,
        preparing_bytes=int(manifest.memory.model_private_bytes * _PREPARING_FACTOR),
        tokenizer_bytes=int(sizes.get(f"{model.path}/tokenizer.json", 0) * _TOKENIZER_FACTOR),
        kv_bytes_per_token=model.kv_cache.bytes_per_token,
        activation_bytes_per_token=hidden_size * _ACTIVATION_BYTES_PER_HIDDEN,
        logits_bytes=vocab_size * 4,
        # with more rows than one there is an output row for every token
        pruned_head=bool(model.quantization.get("prune_lm_head", model.quantization.get("logits_rows") == 1)),
        prefill_chunk_tokens=config.engine.prefill_chunk_tokens,
        context_tokens=model.context_tokens,
        parent=Part(_parent_private(sys.modules), _PARENT_MAPPED.mapped_bytes, _PARENT_MAPPED.hot_bytes),
        interpreter_bytes=_INTERPRETER_BYTES,
        retrieval=_RETRIEVAL,
        embedder=_embedder(bundle),
        embedder_row_bytes=_EMBEDDER_ROW_BYTES,
        threads=threads,
        sqlite_bytes=min(_SQLITE_BYTES, index_bytes),
        ingest_bytes=_INGEST_BYTES + _SQLITE_BYTES,
        index_bytes=_index(index_bytes, config.retrieve.exact_chunks),
        worker=_WORKER,
        parser=_PARSER,
        guidance_bytes=vocab_size * _GUIDANCE_BYTES_PER_TOKEN,
        adapters=_adapters(model),
        reranker=_reranker(bundle, threads) if serves or config.retrieve.rerank.enabled else Part(0),
    )


def budget_of(setting: str | int | None) -> Limit:
    """The budget: what is set, but no more than the system allows, for the kernel would kill what went above that.

    :raises BudgetExceeded: nothing is set and the system does not say (it is not Linux).
    """
    wanted = None if setting is None else Limit(parse_size(setting), "memory_budget")
    try:
        allowed = limit()
    except OSError as error:
        if wanted is None:
            raise BudgetExceeded(
                f"set memory_budget: this system does not say how much memory is free ({error})"
            ) from None
        return wanted
    return wanted if wanted is not None and wanted.bytes <= allowed.bytes else allowed


def _weights(bundle: Bundle, prepared: Path | None) -> Part:
    """A load reads all of a file once. Of packed weights only what is used stays mapped (`edge.mapped`)."""
    memory = bundle.manifest.memory
    if prepared is None:
        return Part(memory.model_private_bytes, int(memory.weights_bytes * _UNPACKED_MAPPED_SHARE), _MIB)
    ranges = [span for spans in read_used(prepared).values() for span in spans]
    used = sum(end - start for start, end in ranges) or int(memory.weights_bytes * _PREPARED_GROWTH)
    return Part(_PREPARED_PRIVATE_BYTES, used + _TABLE_ROWS_BYTES, used)


def _adapters(model: ModelSection) -> Part:
    """Files that are mapped when a request first names them; a request reads one of them."""
    sizes = [adapter.bytes for adapter in model.adapters]
    return Part(0, sum(sizes), max(sizes, default=0))


def _index(file_bytes: int, exact_chunks: int) -> int:
    """Memory of the vector search, from the size of the index file: counting would import what this avoids."""
    chunks = file_bytes // _CHUNK_FILE_BYTES
    if chunks <= exact_chunks:
        return 0  # read block by block, through SQLite's cache
    return int(chunks * _CHUNK_SIGNS_BYTES + _SEARCH_BYTES * max(1.0, (chunks / 100_000) ** (1 / 3)))


def _embedder(bundle: Bundle) -> Part:
    manifest = bundle.manifest
    return Part(manifest.memory.embedder_private_bytes, _encoder_mapped(bundle, manifest.embedder.path))


def _reranker(bundle: Bundle, threads: int) -> Part:
    """Pairs are read beside each other, a core each: unlike questions, which are embedded one at a time."""
    section = bundle.manifest.reranker
    if section is None:
        return Part(0)
    beside = (threads - 1) * int(_EMBEDDER_ROW_BYTES * (section.max_tokens / 256) ** 1.5)
    return Part(section.private_bytes + beside, _encoder_mapped(bundle, section.path))


def _encoder_mapped(bundle: Bundle, path: str) -> int:
    below = f"{path}/{EMBEDDER_MODEL}"
    weights = sum(entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith(below))
    return int(weights * _EMBEDDER_MAPPED_SHARE)


def _decoder(path: Path) -> tuple[int, int]:
    """Hidden size and vocabulary of the decoder in genai_config.json."""
    try:
        model: Any = json.loads(path.read_text(encoding="utf-8"))["model"]
        return int(model["decoder"]["hidden_size"]), int(model["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not the configuration of a model: {error}. Try `edge bundle verify`.") from None


def _parent_private(imported: Collection[str]) -> int:
    """This process as it will be: as it is, and what it has not imported yet, without the libraries of retrieval."""
    missing = sum(size for module, size in _IMPORTS.items() if module not in imported)
    elsewhere = sum(size for module, size in _RETRIEVAL_IMPORTS.items() if module in imported)
    return max(0, status_bytes("RssAnon", os.getpid()) + missing - elsewhere)
