"""The frozen data that flows along the four straight paths.

Offsets (`start`, `end`) are always character offsets into `Document.text`, the extracted text; `end` is exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["text", "heading", "row"]
"""text: prose, may be split and merged; heading: a title line; row: a record of a table, kept whole and alone."""


@dataclass(frozen=True, slots=True)
class Block:
    """A run of a document's text that belongs together: a paragraph, a heading, a row of a table."""

    start: int
    end: int
    kind: BlockKind = "text"
    headings: tuple[str, ...] = ()  # from the outermost to the innermost, without this block's own text
    page: int | None = None  # 1-based; None where the format has no pages


@dataclass(frozen=True, slots=True)
class Document:
    """One source as text. Blocks are in order, do not overlap, and cover everything that is to be found."""

    source: str  # an absolute POSIX path; a table of a database is "<path>#<table>"
    sha256: str  # of the source's bytes (of the table's rows, for a database)
    type: str  # "txt", "md", "html", "pdf", "docx", "xlsx", "pptx", "csv", "json", "jsonl", "sqlite"
    title: str
    text: str
    blocks: tuple[Block, ...]
    language: str  # ISO 639-1, "en" where it cannot be told
    date: str  # ISO 8601 date of the last change to the source, e.g. "2026-11-22"
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is embedded, found and packed: `text == document.text[start:end]` for kind "text".

    A chunk of kind "summary" stands for the whole document: its text is the summary, its span is what it summarises.
    """

    ordinal: int  # position within the document, from 0
    start: int
    end: int
    text: str
    headings: tuple[str, ...] = ()
    page: int | None = None
    kind: Literal["text", "summary"] = "text"


@dataclass(frozen=True, slots=True)
class Near:
    """One or two neighbouring sentences of a chunk, and how near the question they are."""

    start: int  # in the chunk's text
    end: int
    cosine: float  # -1..1


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found, with every score that led to it."""

    chunk_id: int
    document: str  # Document.source
    title: str
    type: str
    language: str
    chunk: Chunk
    dense: float  # cosine of query and chunk, -1..1
    lexical: float  # BM25 as a share of its bound for the query: 0 where no query term occurs, about 1 where all do
    score: float  # fused, about 0..1
    closest: float | None = None  # cosine of the query and the nearest of `near`; None beyond the first few hits
    relevance: float | None = None  # calibrated probability that it holds an answer, 0..1; None beyond the best two
    near: tuple[Near, ...] = ()  # the most promising sentences; empty beyond the first few hits
    reranked: float | None = None  # relevance by the bundle's cross-encoder; None where it was not asked


@dataclass(frozen=True, slots=True)
class Dropped:
    """A hit that did not get into the prompt, and why."""

    chunk_id: int
    document: str
    start: int
    end: int
    tokens: int  # what it would have taken; 0 where nothing was packed at all (reason "floor")
    reason: Literal["budget", "duplicate", "floor", "limit"]


@dataclass(frozen=True, slots=True)
class Passage:
    """A hit as the prompt shows it, under its marker."""

    marker: int  # 1-based: [1], [2], ...
    hit: Hit


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    text: str  # chat template applied
    token_ids: tuple[int, ...]
    passages: tuple[Passage, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How probable a token was for the model itself: before temperature, top_p or guidance chose among them."""

    logprob: float  # natural logarithm, of the token that was taken
    top: tuple[tuple[int, str, float], ...]  # id, text and logprob of the most probable, best first


@dataclass(frozen=True, slots=True)
class Token:
    """One step of a stream: the text that became certain with it (may be empty in the middle of a character)."""

    id: int
    text: str
    logprobs: Logprobs | None = None  # where they were asked for


@dataclass(frozen=True, slots=True)
class Citation:
    """Evidence for one sentence of an answer: `text == document text[start:end]`.

    Only where the passage is a summary, `text` is the summary's sentence and the span is what the summary stands for.
    """

    marker: int
    document: str
    title: str
    page: int | None
    start: int
    end: int
    text: str
    score: float  # support of the sentence by this span, 0..1
    sentence: str  # the sentence of the answer that it supports
