"""Text to vectors: the `Embedder` protocol and its ONNX implementation.

One text goes through the model alone. Int8 activations are scaled by the largest value in the whole input, so in a
batch a text's vector would depend on its neighbours: measured on all-MiniLM-L6-v2, by 0.005 of cosine, as much as
quantization itself costs. Alone, the same text always gives the same vector. The cores are kept busy by running several
texts beside each other, a core each: 1.24 times as fast on 2 cores as both cores on one text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.bundle import EmbedderSection
from edge.errors import EngineError, UsageError
from edge.onnx_text import TextModel

Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the number of texts done and the number of all."""


class Embedder(Protocol):
    """What ingest and retrieval need. Vectors have unit length, so a dot product is the cosine."""

    @property
    def dim(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The most that `count_tokens` may give for a document."""
        ...

    def embed_query(self, text: str) -> Vectors:
        """Float32 (dim,)."""
        ...

    def embed_documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """Float32 (len(texts), dim)."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a document as the model reads it, with its prefix and the special tokens."""
        ...


class OnnxEmbedder(TextModel):
    """The embedder of a bundle, run by onnxruntime on the CPU.

    with OnnxEmbedder(bundle.path / section.path, section, threads=2) as embedder:
        vectors = embedder.embed_documents(["a passage", "another"])  # float32 (2, dim)
    """

    def __init__(self, folder: Path, section: EmbedderSection, threads: int) -> None:
        """Load the model; `threads` is the number of cores it may keep busy.

        :raises EngineError: a file is missing or damaged, or the model is not an embedder.
        """
        super().__init__(folder, threads, "last_hidden_state", "embedder")
        self._section = section

    @property
    def dim(self) -> int:
        return self._section.dim

    @property
    def max_tokens(self) -> int:
        return self._section.max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a document as the model reads it: with its prefix and the special tokens."""
        return len(self._encode(self._section.document_prefix + text).ids)

    def cut(self, text: str) -> str:
        """The beginning of a document, as much of it as the model reads."""
        if self.count_tokens(text) <= self.max_tokens:
            return text
        ends = [end for _, end in self.token_offsets(text)]
        room = self.max_tokens - self.count_tokens("")
        while self.count_tokens(text[: ends[room - 1]]) > self.max_tokens:  # the cut may part a word otherwise
            room -= 1
        return text[: ends[room - 1]]

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token of `text` in characters, without prefix and special tokens."""
        return list(self._encode(text, special=False).offsets)

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question, float32 (dim,), unit length.

        A question over `max_tokens` is read in windows; its vector is their mean, weighted by tokens.

        :raises UsageError: the question is empty.
        :raises EngineError: the model fails.
        """
        if not text.strip():
            raise UsageError("the question is empty: write what you want to know")
        windows = self._windows(text)
        if len(windows) == 1:
            return self._embed(windows[0])
        weights = np.array([len(window) for window in windows], dtype=np.float32)
        return _unit(weights @ np.stack([self._embed(window) for window in windows]))

    def embed_documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """The vectors of documents (chunks), float32 (len(texts), dim), unit length, in the order given.

        :raises EngineError: a text is longer than `max_tokens` (nothing is cut silently), or the model fails.
        """
        self._check_open()
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for row, vector in enumerate(self._pool.map(self._embed_document, texts)):
            vectors[row] = vector
            if on_progress is not None:
                on_progress(row + 1, len(texts))
        return vectors

    def _embed_document(self, text: str) -> Vectors:
        ids = self._encode(self._section.document_prefix + text).ids
        if len(ids) > self.max_tokens:
            raise EngineError(
                f"a text of {len(ids)} tokens is longer than the {self.max_tokens} that the embedder reads: "
                f"lower ingest.chunk.max_tokens in the configuration (it begins {text[:40]!r})"
            )
        return self._embed(ids)

    def _windows(self, text: str) -> list[list[int]]:
        """Token ids of the question, cut so that each window fits, each with the prefix and the special tokens."""
        whole = self._encode(self._section.query_prefix + text).ids
        if len(whole) <= self.max_tokens:
            return [whole]
        prefix = self._encode(self._section.query_prefix, special=False)
        rest = self._encode(text, special=False)
        room = self.max_tokens - len(prefix.ids) - self._tokenizer.num_special_tokens_to_add(is_pair=False)
        rest.truncate(room)
        merge = type(rest).merge
        parts = [merge([prefix, part], growing_offsets=False) for part in (rest, *rest.overflowing)]
        return [self._tokenizer.post_process(part).ids for part in parts]

    def _embed(self, ids: list[int]) -> Vectors:
        """One sequence of token ids -> float32 (dim,), unit length."""
        hidden = self._run(ids)  # (1, t, dim)
        if hidden.shape[-1] != self.dim:
            raise EngineError(f"the embedder gives {hidden.shape[-1]} dimensions and its manifest says {self.dim}")
        return _unit(hidden[0].mean(axis=0) if self._section.pooling == "mean" else hidden[0, 0])


def _unit(vector: Vectors) -> Vectors:
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise EngineError("the embedder gave a vector that is not finite: run `edge bundle verify`")
    return vector / np.float32(norm)
