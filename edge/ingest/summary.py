"""An extractive summary of a document: sentences of its most central chunks, no model needed.

Central is what is near the mean of all chunks' vectors; maximal marginal relevance (Carbonell and Goldstein 1998, "The
use of MMR") keeps one theme from taking all the room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge.ingest.chunk import embedding_text
from edge.sentences import sentences
from edge.types import Chunk, Document

_CENTRAL = 0.7  # weight of nearness to the centre against difference from what is already taken
_MAX_CHUNKS = 12
_LEAST_CHARS, _MOST_CHARS = 25, 400  # of a sentence worth taking: shorter ones are labels, longer ones fill the summary


def summarise(
    document: Document,
    chunks: Sequence[Chunk],
    vectors: NDArray[np.float32],
    *,
    max_tokens: int,
    count_tokens: Callable[[str], int],
) -> Chunk | None:
    """One entry that stands for the whole document; None where there is nothing to sum up (fewer than three chunks).

    :param vectors: float32 (n_chunks, dim), unit length, of `chunks` in their order.

    The summary's text is made of sentences of the document, in document order, one a line; its embedding text fits
    `max_tokens`. Its span runs over all chunks.

    :raises ValueError: not one vector per chunk.
    """
    if vectors.ndim != 2 or len(vectors) != len(chunks):
        raise ValueError(f"{len(chunks)} chunks need as many vectors, not an array of shape {vectors.shape}")
    if len(chunks) < 3:
        return None
    taken: dict[int, str] = {}
    summary: Chunk | None = None
    for index in _ranked(vectors):
        sentence = _leading_sentence(chunks[index])
        if not sentence or sentence in taken.values():
            continue
        longer = {**taken, index: sentence}
        candidate = Chunk(
            ordinal=len(chunks),
            start=chunks[0].start,
            end=chunks[-1].end,
            text="\n".join(longer[key] for key in sorted(longer)),
            kind="summary",
        )
        if count_tokens(embedding_text(document.title, candidate)) <= max_tokens:
            taken, summary = longer, candidate
    return summary


def _ranked(vectors: NDArray[np.float32]) -> list[int]:
    """Indices of the most central and mutually different chunks, best first."""
    centre = vectors.mean(axis=0)  # (dim,)
    central = vectors @ (centre / max(float(np.linalg.norm(centre)), 1e-9))  # (n,)
    nearest = np.full(len(vectors), -1.0, dtype=np.float32)  # cosine to the nearest one taken
    order: list[int] = []
    while len(order) < min(_MAX_CHUNKS, len(vectors)):
        score = _CENTRAL * central - (1 - _CENTRAL) * np.maximum(nearest, 0.0)
        score[order] = -np.inf
        best = int(score.argmax())
        order.append(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return order


def _leading_sentence(chunk: Chunk) -> str:
    """The first sentence with something to say; a chunk may open with a heading or the end of another thought."""
    found = [" ".join(chunk.text[start:end].split()) for start, end in sentences(chunk.text)]
    return next((text for text in found if _LEAST_CHARS <= len(text) <= _MOST_CHARS and not text.startswith("#")), "")
