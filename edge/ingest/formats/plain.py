"""Plain text: the text as it stands, a block per paragraph."""

from __future__ import annotations

from edge.ingest.formats.base import Parsed, Source, clean, too_long
from edge.ingest.formats.encoding import decode
from edge.types import Block


def parse(source: Source) -> list[Parsed]:
    """A block per run of lines between blank lines."""
    text = clean(decode(source.data))
    if len(text) > source.max_chars:
        raise too_long(source.max_chars)
    blocks = tuple(Block(start, end) for start, end in paragraphs(text, 0, len(text)))
    return [Parsed(text, blocks)]


def paragraphs(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans of the runs of lines between blank lines within text[start:end], outer white space left out."""
    spans: list[tuple[int, int]] = []
    first = last = -1  # of the open paragraph
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        line = text[start:stop]
        if ink := line.strip():
            at = start + line.index(ink[0])
            first, last = (at if first < 0 else first), at + len(ink)
        elif first >= 0:
            spans.append((first, last))
            first = -1
        start = stop + 1
    return [*spans, (first, last)] if first >= 0 else spans
