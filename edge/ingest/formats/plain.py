"""Plain text: the text as it stands, a block per paragraph, the title where the first line reads like one."""

from __future__ import annotations

from edge.ingest.formats.base import Parsed, Source, clean, too_long
from edge.ingest.formats.encoding import decode
from edge.types import Block

_TITLE_CHARS = 200


def parse(source: Source) -> list[Parsed]:
    """A block per run of lines between blank lines."""
    text = clean(decode(source.data))
    if len(text) > source.max_chars:
        raise too_long(source.max_chars)
    spans = paragraphs(text, 0, len(text))
    return [Parsed(text, tuple(Block(start, end) for start, end in spans), title_of(text, spans))]


def title_of(text: str, spans: list[tuple[int, int]]) -> str:
    """The first paragraph, where it is one short line that ends like a title and more follows; else ""."""
    if len(spans) < 2:
        return ""
    first = text[slice(*spans[0])]
    is_title = len(first) <= _TITLE_CHARS and "\n" not in first and len(first.split()) > 1
    return first if is_title and not first.endswith((".", ":", ",", ";")) else ""


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
