"""What an index holds, document by document: for a digest of it, and to carry documents from one index to another.

A document's content is all that its source and the chunker decided. Its vectors follow from that and the embedder,
whose fingerprint the index has, so they are carried and not digested: two machines may differ in their last bits.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.errors import StoreError
from edge.ingest.chunk import embedding_text
from edge.store import texts
from edge.store.chunks import Store
from edge.store.connect import translated
from edge.types import Chunk, Document

_DOCUMENTS = "SELECT id, source, sha256, settings, type, title, language, date, tags, blocks FROM documents"
_CHUNKS = (
    'SELECT ordinal, start, "end", headings, page, kind, terms, summary FROM chunks WHERE document_id = ? '
    "ORDER BY ordinal"
)
_VECTORS = "SELECT v.embedding FROM chunks c JOIN vectors v ON v.id = c.id WHERE c.document_id = ? ORDER BY c.ordinal"


class Piece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A chunk as it is stored."""

    ordinal: int
    start: int
    end: int
    headings: str  # JSON array
    page: int | None
    kind: Literal["text", "summary"]
    terms: int  # how many: they are made anew of the text, and must come out the same
    summary: str | None


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document with its chunks, as it is stored."""

    source: str
    sha256: str
    settings: str
    type: str
    title: str
    language: str
    date: str
    tags: str  # JSON array
    text: str
    blocks: str  # JSON
    chunks: tuple[Piece, ...]

    @property
    def digest(self) -> str:
        """Sha256, hex, of all of it."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


def contents(store: Store) -> Iterator[Content]:
    """Every document in the order of sources; one at a time is held.

    :raises StoreError: the index cannot be read.
    """
    with translated(store.path):
        for row in store.connection.execute(f"{_DOCUMENTS} ORDER BY source"):
            yield _content(store, *row)


def content(store: Store, source: str) -> Content | None:
    """One document; None where there is none."""
    with translated(store.path):
        row = store.connection.execute(f"{_DOCUMENTS} WHERE source = ?", (source,)).fetchone()
        return _content(store, *row) if row is not None else None


def vectors(store: Store, source: str) -> NDArray[np.float32]:
    """A document's vectors, float32 (n_chunks, dim), in the order of its chunks."""
    with translated(store.path):
        identifier = store.connection.execute("SELECT id FROM documents WHERE source = ?", (source,)).get
        rows = [bytes(one) for (one,) in store.connection.execute(_VECTORS, (identifier,))]
    return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), store.identity.dim)


def put(store: Store, new: Content, found: NDArray[np.float32]) -> None:
    """Store a document in place of the one of its source; `found` is float32 (n_chunks, dim).

    :raises StoreError: what it says of its chunks cannot be: nothing was changed.
    """
    try:
        blocks = texts.blocks_of(new.blocks)
        document = Document(
            new.source, new.sha256, new.type, new.title, new.text, blocks, new.language, new.date,
            tuple(json.loads(new.tags)),
        )  # fmt: skip
        chunks = [_chunk(piece, new.text) for piece in new.chunks]
    except (ValueError, TypeError) as error:
        raise StoreError(f"{store.path}: the document {new.source} is damaged: {error}") from None
    terms = [lexical.terms(embedding_text(new.title, chunk), new.language) for chunk in chunks]
    store.replace(document, chunks, found, terms, settings=new.settings)


def state_of(store: Store) -> dict[str, str]:
    """Every source with the digest of its content; reads all text."""
    return {one.source: one.digest for one in contents(store)}


def digest_of(state: Mapping[str, str]) -> str:
    """Sha256, hex, that stands for all documents of an index."""
    return hashlib.sha256(msgspec.msgpack.encode(sorted(state.items()))).hexdigest()


def _content(
    store: Store, identifier: int, source: str, sha256: str, settings: str, type_: str, title: str, language: str,
    date: str, tags: str, blocks: bytes,
) -> Content:  # fmt: skip
    pieces = tuple(Piece(*row) for row in store.connection.execute(_CHUNKS, (identifier,)))
    text = texts.span(store.connection, identifier)
    plain = zlib.decompress(blocks).decode()
    return Content(source, sha256, settings, type_, title, language, date, tags, text, plain, pieces)


def _chunk(piece: Piece, text: str) -> Chunk:
    if not 0 <= piece.start <= piece.end <= len(text):
        raise ValueError(f"chunk {piece.ordinal} ends outside of the text")
    own = piece.summary if piece.kind == "summary" and piece.summary is not None else text[piece.start : piece.end]
    headings = tuple(json.loads(piece.headings))
    return Chunk(piece.ordinal, piece.start, piece.end, own, headings, piece.page, piece.kind)
