"""A Document to chunks that fit the embedder: exact spans of its text, cut where the meaning allows it. Pure.

Blocks under one heading (and on one page) are packed together whole; a block that does not fit is packed sentence by
sentence, and a sentence that does not fit is cut by semchunk at clauses, words, or characters. A record of a table is
a chunk of its own. A heading goes with what follows it. A chunk begins with the last sentences of the one before it in
the same section, as far as `overlap_tokens` allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edge.config import ChunkConfig
from edge.errors import DocumentError
from edge.ingest.lines import without_soft_ends
from edge.sentences import sentences
from edge.types import Block, Chunk, Document

VERSION = "1"
"""Raise it when the same document would give other chunks: an index remembers what it was built with."""

_PART_CHARS = 80  # of a title or heading in the heading line
_CHARS_PER_TOKEN = 16  # text takes at least this share: tokenizers count spaces and overlong words as next to nothing
_WINDOW_CHARS = 8000  # a longer block is cut into windows first, which bounds the work on hostile text
_CACHED_CHARS = 40

Span = tuple[int, int]
Section = tuple[tuple[str, ...], int | None]  # headings and page


def chunk(document: Document, config: ChunkConfig, count_tokens: Callable[[str], int]) -> list[Chunk]:
    """Chunks in order, `text == document.text[start:end]`, together covering all blocks.

    `count_tokens(embedding_text(document.title, chunk)) <= config.max_tokens` for each, unless a single character takes
    more than there is room for.

    :raises DocumentError: the title alone leaves no room for text.
    """
    return _Chunker(document, config, count_tokens).run()


def embedding_text(document_title: str, chunk: Chunk) -> str:
    """What is embedded and indexed for words: the line "Title > Heading > Heading", then the chunk's text.

    The line leaves out what the chunk's own first lines say.
    """
    said = {_bare(line) for line in chunk.text.split("\n", 8)[:8]}
    line = _heading_line(tuple(part for part in (document_title, *chunk.headings) if _bare(part) not in said))
    return f"{line}\n{chunk.text}" if line else chunk.text


def _bare(line: str) -> str:
    return line.strip("# \t")


def _heading_line(parts: tuple[str, ...]) -> str:
    short = (part if len(part) <= _PART_CHARS else part[: _PART_CHARS - 1] + "…" for part in parts)
    return " > ".join(dict.fromkeys(filter(None, short)))


class _Estimate:
    """Token counts as a sum over words, each counted once: fast, and exact for tokenizers that split at spaces.

    What other tokenizers make of it is checked when a chunk is finished.
    """

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        self._count = count_tokens
        self._special = count_tokens("")
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return max(sum(map(self._word, text.split())), len(text) // _CHARS_PER_TOKEN)

    def _word(self, word: str) -> int:
        tokens = self._known.get(word)
        if tokens is None:
            tokens = max(self._count(word) - self._special, -(-len(word) // _CHARS_PER_TOKEN))
            if len(word) <= _CACHED_CHARS:
                self._known[word] = tokens
        return tokens


@dataclass(slots=True)
class _Open:
    """The chunk that is being filled."""

    section: Section
    spans: list[Span]
    tokens: int
    lead: int | None = None  # where it starts if not with its first span: at its headings, or at the overlap
    lead_is_heading: bool = False


class _Chunker:
    def __init__(self, document: Document, config: ChunkConfig, count_tokens: Callable[[str], int]) -> None:
        self._document = document
        self._text = document.text
        self._config = config
        self._count = count_tokens
        self._estimate = _Estimate(count_tokens)
        self._room: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}
        self._chunks: list[Chunk] = []
        self._pending: list[Block] = []  # headings that wait for what follows them
        self._open: _Open | None = None
        self._last: Section | None = None  # of the last chunk, where the next may overlap with it

    def run(self) -> list[Chunk]:
        for block in self._document.blocks:
            section = (block.headings, block.page)
            if block.kind == "heading":
                self._heading(block)
            elif block.kind == "row":
                self._row(block, section)
            else:
                self._block((block.start, block.end), section)
        self._flush()
        self._trailing_headings()
        return self._chunks

    # What each kind of block does

    def _heading(self, block: Block) -> None:
        self._flush()
        self._pending.append(block)
        first = self._pending[0]
        if self._size((first.start, block.end)) > self._limit(first.headings) // 2:  # a list of titles: treated as text
            run, self._pending = self._pending, []
            for heading in run:
                self._block((heading.start, heading.end), (first.headings, first.page))

    def _row(self, block: Block, section: Section) -> None:
        self._flush()
        self._last = None  # records do not overlap
        span = (block.start, block.end)
        room = self._limit(block.headings) - self._pending_tokens()
        for piece in [span] if self._size(span) <= room else self._cut(span, room):
            self._begin(piece, self._size(piece), section)
            self._flush()
            self._last = None

    def _block(self, span: Span, section: Section) -> None:
        if self._open is not None and self._open.section != section:
            self._flush()
        room = self._limit(section[0]) - self._pending_tokens()
        if (size := self._size(span)) <= room:
            self._place(span, size, section)
            return
        for window in self._windows(span):
            for start, end in sentences(self._text[slice(*window)]):
                sentence = (window[0] + start, window[0] + end)
                size = self._size(sentence)
                for piece in [sentence] if size <= room else self._cut(sentence, room):
                    self._place(piece, self._size(piece), section)

    # Packing

    def _place(self, span: Span, size: int, section: Section) -> None:
        if self._open is not None:
            gap = (span[0] - self._open.spans[-1][1]) // _CHARS_PER_TOKEN
            if self._open.tokens + gap + size <= self._limit(section[0]):
                self._open.spans.append(span)
                self._open.tokens += gap + size
                return
            self._flush()
        self._begin(span, size, section)

    def _begin(self, span: Span, size: int, section: Section) -> None:
        if self._pending:
            lead, lead_tokens = self._pending[0].start, self._pending_tokens()
            self._pending = []
            self._open = _Open(section, [span], size + lead_tokens, lead, lead_is_heading=True)
            return
        self._open = _Open(section, [span], size)
        if self._last == section:
            allowed = min(self._config.overlap_tokens, self._limit(section[0]) - size)
            for start, _ in reversed(self._last_sentences()):
                tokens = self._size((start, self._chunks[-1].end))
                if tokens > allowed:
                    break
                self._open.lead, self._open.tokens = start, size + tokens

    def _last_sentences(self) -> list[Span]:
        """The sentences at the end of the last chunk, without its first one: chunks do not hold each other."""
        last = self._chunks[-1]
        floor = max(last.start, last.end - self._config.overlap_tokens * _CHARS_PER_TOKEN)
        return [(floor + start, floor + end) for start, end in sentences(self._text[floor : last.end])[1:]]

    def _flush(self) -> None:
        if self._open is not None:
            done, self._open = self._open, None
            self._emit(done.spans, done.section, done.lead, done.lead_is_heading)
            self._last = done.section

    def _emit(self, spans: list[Span], section: Section, lead: int | None, keep_lead: bool) -> None:
        """Append a chunk; where its exact count is above the limit, without overlap, then in halves."""
        made = self._make(spans[0][0] if lead is None else lead, spans[-1][1], section)
        if self._fits(made):
            self._chunks.append(made)
            return
        if lead is not None and not keep_lead:
            self._emit(spans, section, None, keep_lead=False)
            return
        spans = spans if len(spans) > 1 else _halves(self._text, spans[0])
        if len(spans) == 1:
            self._chunks.append(made)  # a single character
            return
        middle = len(spans) // 2
        self._emit(spans[:middle], section, lead, keep_lead)
        self._emit(spans[middle:], section, None, keep_lead=False)

    def _make(self, start: int, end: int, section: Section) -> Chunk:
        headings, _ = self._fit_headings(section[0])
        return Chunk(len(self._chunks), start, end, self._text[start:end], headings, section[1])

    def _fits(self, made: Chunk) -> bool:
        return self._count(embedding_text(self._document.title, made)) <= self._config.max_tokens

    def _trailing_headings(self) -> None:
        """Headings with nothing after them go with the last chunk, or with its last sentence, or stand alone."""
        if not self._pending:
            return
        start, end = self._pending[0].start, self._pending[-1].end
        first, self._pending = self._pending[0], []
        section = (first.headings, first.page)
        if self._chunks:
            last = self._chunks.pop()
            longer = Chunk(last.ordinal, last.start, end, self._text[last.start : end], last.headings, last.page)
            if self._fits(longer):
                self._chunks.append(longer)
                return
            self._chunks.append(last)
            whole = sentences(last.text)[-1][0] + last.start
            start = whole if self._fits(self._make(whole, end, section)) else start  # else its halves would repeat text
        self._emit([(start, end)], section, None, keep_lead=False)

    # Sizes and cuts

    def _size(self, span: Span) -> int:
        """Estimated tokens; a span above the window size is only known to be too long."""
        if span[1] - span[0] > _WINDOW_CHARS:
            return self._config.max_tokens + 1
        return self._estimate(self._text[slice(*span)])

    def _pending_tokens(self) -> int:
        return self._size((self._pending[0].start, self._pending[-1].end)) if self._pending else 0

    def _limit(self, headings: tuple[str, ...]) -> int:
        return self._fit_headings(headings)[1]

    def _fit_headings(self, headings: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """The innermost headings that leave half of the limit to the text, and the tokens left for it."""
        if headings not in self._room:
            limit = self._config.max_tokens
            kept = headings
            while (taken := self._line_tokens(kept)) > limit // 2 and kept:
                kept = kept[1:]
            if limit - taken < limit // 4:
                raise DocumentError(
                    f"{self._document.source}: its title takes {taken} of {limit} tokens: raise ingest.chunk.max_tokens"
                )
            self._room[headings] = kept, limit - taken
        return self._room[headings]

    def _line_tokens(self, headings: tuple[str, ...]) -> int:
        line = _heading_line((self._document.title, *headings))
        return self._count(f"{line}\n" if line else "")

    def _windows(self, span: Span) -> Iterator[Span]:
        start, end = span
        while end - start > _WINDOW_CHARS:
            stop, least = start + _WINDOW_CHARS, start + _WINDOW_CHARS * 3 // 4
            cuts = (self._text.rfind(mark, least, stop) for mark in ("\n", ". ", " "))
            cut = next((at + 1 for at in cuts if at >= 0), stop)
            yield start, cut
            start = cut
        yield start, end

    def _cut(self, span: Span, size: int) -> Iterator[Span]:
        """Pieces of at most `size` tokens. Only semchunk's starts are used, so that nothing can fall between pieces."""
        from semchunk.semchunk import chunk as semchunk

        for start, end in self._windows(span):
            text = without_soft_ends(self._text[start:end])  # semchunk cuts at line ends before all else
            if not text.strip():
                continue
            pieces: Any = semchunk(text, max(1, size), self._estimate, memoize=False, offsets=True)
            starts = [0, *(offset[0] for offset in pieces[1][1:]), end - start]
            for first, stop in itertools.pairwise(starts):
                ink = text[first:stop].strip()
                if ink:
                    at = start + text.index(ink[0], first)
                    yield at, at + len(ink)


def _halves(text: str, span: Span) -> list[Span]:
    """A span in two, at white space near its middle if there is any; one span where it is a single character."""
    start, end = span
    if end - start < 2:
        return [span]
    middle = (start + end) // 2
    space = text.rfind(" ", start + 1, middle + 1)
    cut = space if space > (start + middle) // 2 else middle
    halves = []
    for first, stop in ((start, cut), (cut, end)):
        if ink := text[first:stop].strip():
            at = text.index(ink[0], first)
            halves.append((at, at + len(ink)))
    return halves
