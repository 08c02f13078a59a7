"""A question and passages to how well each answers it: the `Reranker` protocol and its ONNX implementation.

A cross-encoder reads question and passage together, so it sees what the embedder's two vectors cannot; it costs a run
of the model for each passage, so it is asked about the best few hits alone. A pair goes through the model by itself,
for the reason that `edge.embed` gives, and several run beside each other, a core each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge.bundle import RerankerSection
from edge.errors import EngineError, UsageError
from edge.onnx_text import TextModel

if TYPE_CHECKING:
    from tokenizers import Encoding

    from edge.types import Hit


@dataclass(frozen=True, slots=True)
class Scored:
    """What a reranker says of one passage."""

    relevance: float  # after the bundle's activation: 0..1 with a sigmoid, any number without
    tokens: int  # that it read: question, passage and special tokens
    is_cut: bool  # the passage was longer than it reads; its end was left out


class Reranker(Protocol):
    """What retrieval needs of a reranker."""

    def score(self, query: str, texts: Sequence[str]) -> list[Scored]:
        """A relevance for each text, in their order."""
        ...


class OnnxReranker(TextModel):
    """The reranker of a bundle, run by onnxruntime on the CPU.

    with OnnxReranker(bundle.path / section.path, section, threads=2) as reranker:
        first, second = reranker.score("How long is it held?", ["Hold it for ten seconds.", "The lamp is red."])
    """

    def __init__(self, folder: Path, section: RerankerSection, threads: int) -> None:
        """Load the model; `threads` is the number of cores it may keep busy.

        :raises EngineError: a file is missing or damaged, or the model is no cross-encoder.
        """
        super().__init__(folder, threads, "logits", "reranker")
        self._section = section

    @property
    def max_query_tokens(self) -> int:
        """The most of a question, prefix included."""
        return max_query_tokens(self._section.max_tokens)

    def score(self, query: str, texts: Sequence[str]) -> list[Scored]:
        """How well each text answers the query, in the order given. Of a pair over `max_tokens` the text's end is cut.

        :raises UsageError: the query is empty, or longer than `max_query_tokens`.
        :raises EngineError: the model fails.
        """
        if not query.strip():
            raise UsageError("the question is empty: write what you want to know")
        asked = self._encode(self._section.query_prefix + query, special=False)
        if len(asked.ids) > self.max_query_tokens:
            raise UsageError(
                f"the question has {len(asked.ids)} tokens and the reranker reads {self.max_query_tokens} of one: "
                f"shorten it by {len(asked.ids) - self.max_query_tokens}, or ask without reranking"
            )
        return list(self._pool.map(lambda text: self._score(asked, text), texts))

    def _score(self, asked: Encoding, text: str) -> Scored:
        read = self._encode(self._section.document_prefix + text, special=False)
        room = self._section.max_tokens - len(asked.ids) - self._tokenizer.num_special_tokens_to_add(is_pair=True)
        is_cut = len(read.ids) > room
        read.truncate(room)
        pair = self._tokenizer.post_process(asked, read)
        return Scored(self._relevance(pair), len(pair.ids), is_cut)

    def _types(self, pair: Encoding) -> list[int]:
        """Which tokens are the passage's: without a post-processor nothing has said so."""
        if self._tokenizer.post_processor is not None:
            return pair.type_ids
        return [sequence or 0 for sequence in pair.sequence_ids]

    def _relevance(self, pair: Encoding) -> float:
        logits = self._run(pair.ids, self._types(pair))  # (1, 1)
        if logits.size != 1:
            raise EngineError(f"the reranker gives {logits.size} scores for a pair; one is its relevance")
        logit = np.float64(logits.flat[0])
        if not np.isfinite(logit):
            raise EngineError("the reranker gave a score that is not finite: run `edge bundle verify`")
        return float(1 / (1 + np.exp(-logit))) if self._section.activation == "sigmoid" else float(logit)


def max_query_tokens(max_tokens: int) -> int:
    """Of a question: half of what the model reads, so that passages have the rest."""
    return max_tokens // 2


def reranked(hits: Sequence[Hit], question: str, reranker: Reranker, candidates: int) -> list[Hit]:
    """The hits, the first `candidates` of them in the order of their relevance, which they get as `reranked`.

    What a reranker reads of a hit is what was embedded of it: title and heading stand before the text.

    :raises UsageError: see `OnnxReranker.score`.
    """
    from edge.ingest.chunk import embedding_text

    first = hits[:candidates]
    scores = reranker.score(question, [embedding_text(hit.title, hit.chunk) for hit in first])
    read = [dataclasses.replace(hit, reranked=one.relevance) for hit, one in zip(first, scores, strict=True)]
    return [*sorted(read, key=lambda hit: -(hit.reranked or 0.0)), *hits[candidates:]]
