"""Replies of this daemon's own endpoints as structs, for the OpenAPI document alone."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from edge.server.wire_replies import Shape


class SearchHit(Shape):
    name: str
    title: str
    score: float  # about 0..1
    marker: None
    chunk_id: int
    document: str
    page: int | None
    start: int
    end: int
    dense: float
    lexical: float
    fused: float
    closest: float | None
    relevance: float | None
    reranked: float | None  # by the cross-encoder, where the configuration asks it
    text: str


class SearchHits(Shape):
    object: Literal["list"]
    data: list[SearchHit]


class RerankedText(Shape):
    text: str


class RerankResult(Shape):
    index: int  # in the request's documents
    relevance_score: float  # 0..1 with a sigmoid, any number without
    truncated: bool  # the document was longer than the model reads: its end was left out
    document: RerankedText | UnsetType = UNSET  # where `return_documents` asks for it


class TokensRead(Shape):
    prompt_tokens: int
    total_tokens: int


class Reranked(Shape):
    object: Literal["list"]
    model: str
    results: list[RerankResult]  # best first
    usage: TokensRead


class SourceText(Shape):
    document: str
    name: str
    title: str
    text: str
    parts: list[str]  # of a database: its tables, which are documents of their own


class Rated(Shape):
    feedback_id: int
    thumb: Literal["up", "down"]


class IndexStatus(Shape):
    documents: int
    chunks: int
    bytes: int
    shared: list[str]  # documents that came by other ways than HTTP
    own: int  # documents that this caller sent
    pending: int  # of them, not in the index yet


class DocumentRecord(Shape):
    object: Literal["document"]
    document: str  # what citations and /v1/source call it
    name: str
    bytes: int
    sha256: str
    added: float  # seconds since 1970
    status: Literal["queued", "indexing", "ready", "failed", "deleting"]
    message: str


class DocumentRecords(Shape):
    object: Literal["list"]
    data: list[DocumentRecord]


class LedgerLine(Shape):
    line: str
    kind: str
    bytes: int


class ProcessMemory(Shape):
    rss_bytes: int
    private_bytes: int


class MemoryNow(Shape):
    ledger: list[LedgerLine]
    budget_bytes: int | None
    processes: dict[str, ProcessMemory]


class Status(Shape):
    model: str
    bundle: str  # digest
    loaded: bool
    running: int
    waiting: int
    slots: int
    decode_tok_per_sec: float | None
    memory: MemoryNow
    notes: list[str]
    pending_documents: int


class Health(Shape):
    status: Literal["ok"]


class Ready(Shape):
    ready: bool
    problems: list[str]
