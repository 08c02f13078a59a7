"""A passage of a data set as the document that a text file of it would give, so that it is cut and indexed as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge.ingest.formats import plain
from edge.ingest.formats.base import Source
from edge.types import Document
from optimize.dataset.examples import Shown


def document_of(passage: Shown, number: int = 0) -> Document:
    """The passage's text under the title that the reader of plain text finds, else under the passage's heading."""
    data, path = passage.text.encode(), Path(f"/passages/{number:05}.txt")
    source = Source(path=path, type="txt", data=data, max_chars=2**31, max_unpacked_bytes=0)
    parsed = plain.parse(source)[0]
    title, digest = parsed.title or passage.heading, hashlib.sha256(data).hexdigest()
    return Document(str(path), digest, "txt", title, parsed.text, parsed.blocks, "en", "2026-01-01")
