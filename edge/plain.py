"""Answers and hits as plain data, for JSON: what `edge ask --json` prints and the daemon sends."""

from __future__ import annotations

from typing import Any

from edge.answer import Answer
from edge.types import Citation, Dropped, Hit


def answer_json(answer: Answer) -> dict[str, Any]:
    """The object that `edge ask --json` prints; times in seconds, spans in characters of the extracted text."""
    return {
        "answer": answer.text,
        "citations": [citation_json(citation) for citation in answer.citations],
        "abstained": answer.abstained,
        "quoted": answer.quoted,
        "unsupported": [sentence.text for sentence in answer.sentences if sentence.citation is None],
        "dropped": [_dropped_json(dropped) for dropped in answer.dropped],
        "prompt_tokens": answer.stats.prompt_tokens,
        "cached_tokens": answer.stats.cached_tokens,
        "completion_tokens": answer.stats.completion_tokens,
        "finish_reason": "abstained" if answer.abstained else answer.stats.finish_reason,
        "retrieve_sec": round(answer.retrieve_sec, 4),
        "ttft_sec": round(answer.stats.ttft_sec, 4),
        "decode_tok_per_sec": round(answer.stats.decode_tok_per_sec, 1),
        "rss_peak_bytes": answer.rss_peak_bytes,
    }


def explain_json(answer: Answer) -> dict[str, Any]:
    """What `--explain` adds: every hit with its scores, what was packed, the prompt, and what the model wrote."""
    packed = {p.hit.chunk_id: p.marker for p in answer.prompt.passages} if answer.prompt else {}
    return {
        "hits": [hit_json(hit, packed.get(hit.chunk_id)) for hit in answer.hits],
        "prompt": answer.prompt.text if answer.prompt else None,
        "generated": answer.generated,
    }


def marked(answer: Answer) -> str:
    """The answer's text with a marker after each supported sentence, and a note after each other one."""
    return marked_at(answer)[0]


def marked_at(answer: Answer) -> tuple[str, list[tuple[int, int, int | None]]]:
    """The same, and where its markers are: start and end, and which of `answer.citations` it stands for; None for a
    note. What looks like a marker elsewhere stands in the text of a document."""
    places = {(one.document, one.start, one.end): place for place, one in enumerate(answer.citations)}
    text, end = "", 0
    marks: list[tuple[int, int, int | None]] = []
    for sentence in answer.sentences:
        text += f"{answer.text[end : sentence.end]} "
        end, start, cited = sentence.end, len(text), sentence.citation
        text += f"[{cited.marker}]" if cited else "[unsupported]"
        marks.append((start, len(text), places[cited.document, cited.start, cited.end] if cited else None))
    return text + answer.text[end:], marks


def citation_json(citation: Citation) -> dict[str, Any]:
    names = ("marker", "document", "title", "page", "start", "end", "text", "score", "sentence")
    return {name: getattr(citation, name) for name in names}


def _dropped_json(dropped: Dropped) -> dict[str, Any]:
    names = ("chunk_id", "document", "start", "end", "tokens", "reason")
    return {name: getattr(dropped, name) for name in names}


def hit_json(hit: Hit, marker: int | None = None) -> dict[str, Any]:
    return {
        "marker": marker,
        "chunk_id": hit.chunk_id,
        "document": hit.document,
        "page": hit.chunk.page,
        "start": hit.chunk.start,
        "end": hit.chunk.end,
        "dense": round(hit.dense, 4),
        "lexical": round(hit.lexical, 4),
        "fused": round(hit.score, 6),
        "closest": None if hit.closest is None else round(hit.closest, 4),
        "relevance": None if hit.relevance is None else round(hit.relevance, 4),
        "reranked": None if hit.reranked is None else round(hit.reranked, 4),
        "text": hit.chunk.text,
    }
