"""The tables of documents: what is known of each, and its extracted text in pieces.

Whoever calls holds a transaction for what writes, and is inside `connect.translated`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import apsw

from edge.types import Block, Document

PIECE_CHARACTERS = 8192  # about what zlib needs to compress well; a hit reads one or two


def write(connection: apsw.Connection, document: Document, settings: str) -> int:
    """Store a document in place of the one of its source; returns its id, which stays."""
    connection.execute(
        "INSERT INTO documents (source, sha256, settings, type, title, language, date, tags, characters, blocks) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source) DO UPDATE SET sha256 = excluded.sha256, "
        "settings = excluded.settings, type = excluded.type, title = excluded.title, language = excluded.language, "
        "date = excluded.date, tags = excluded.tags, characters = excluded.characters, blocks = excluded.blocks",
        (document.source, document.sha256, settings, document.type, document.title, document.language,
         document.date, json.dumps(document.tags), len(document.text), _pack_blocks(document.blocks)),
    )  # fmt: skip
    identifier: int = connection.execute("SELECT id FROM documents WHERE source = ?", (document.source,)).get
    connection.execute("DELETE FROM pieces WHERE document_id = ?", (identifier,))
    connection.executemany(
        "INSERT INTO pieces (document_id, start, content) VALUES (?, ?, ?)",
        (
            (identifier, start, zlib.compress(document.text[start : start + PIECE_CHARACTERS].encode()))
            for start in range(0, len(document.text), PIECE_CHARACTERS)
        ),
    )
    return identifier


def read(connection: apsw.Connection, source: str) -> Document | None:
    """A stored document with its whole text and its blocks."""
    found = connection.execute(
        "SELECT id, sha256, type, title, language, date, tags, blocks FROM documents WHERE source = ?", (source,)
    ).fetchone()
    if found is None:
        return None
    identifier, sha256, type_, title, language, date, tags, blocks = found
    return Document(
        source=source, sha256=sha256, type=type_, title=title, text=span(connection, identifier), language=language,
        blocks=blocks_of(zlib.decompress(blocks)), date=date, tags=tuple(json.loads(tags)),
    )  # fmt: skip


def span(connection: apsw.Connection, document_id: int, start: int = 0, end: int | None = None) -> str:
    """A span of a document's extracted text; only the pieces that it touches are read."""
    first = start - start % PIECE_CHARACTERS
    last = end if end is not None else 2**62
    rows = connection.execute(
        "SELECT content FROM pieces WHERE document_id = ? AND start >= ? AND start < ? ORDER BY start",
        (document_id, first, max(last, first + 1)),
    )
    text = "".join(zlib.decompress(content).decode() for (content,) in rows)
    return text[start - first : None if end is None else end - first]


def _pack_blocks(blocks: Sequence[Block]) -> bytes:
    plain = [[b.start, b.end, b.kind, b.headings, b.page] for b in blocks]
    return zlib.compress(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())


def blocks_of(text: str | bytes) -> tuple[Block, ...]:
    """Blocks of the JSON that a document keeps of them.

    :raises ValueError, TypeError: it is none.
    """
    plain = json.loads(text)
    return tuple(Block(start, end, kind, tuple(headings), page) for start, end, kind, headings, page in plain)
