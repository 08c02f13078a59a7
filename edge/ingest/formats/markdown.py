"""Markdown: the text as it stands; headings, paragraphs and the rows of tables become blocks.

`scan` is the only reader of the syntax (CommonMark 0.31 headings and fences, GFM tables); office.py uses it as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge.ingest.formats.base import Parsed, Source, clean, squeeze, too_long
from edge.ingest.formats.encoding import decode
from edge.types import Block, BlockKind

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_MAX_LINE = 4096  # a longer line is no heading and no table's rule: keeps hostile lines away from the patterns


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of Markdown with what its syntax says."""

    start: int
    end: int
    kind: BlockKind
    level: int = 0  # of a heading, 1-6
    title: str = ""  # of a heading, without its marks
    cells: tuple[str, ...] = ()  # of a row
    header: tuple[str, ...] = ()  # of a row: its columns' names; empty for the row that holds them


def parse(source: Source) -> list[Parsed]:
    """Text unchanged; a table's row has its columns' names as the innermost heading, since its line lacks them."""
    text = clean(decode(source.data))
    if len(text) > source.max_chars:
        raise too_long(source.max_chars)
    blocks: list[Block] = []
    path: list[tuple[int, str]] = []
    title = ""
    for piece in scan(text):
        if piece.kind == "heading":
            while path and path[-1][0] >= piece.level:
                path.pop()
            title = title or piece.title
        headings = tuple(name for _, name in path)
        kind = piece.kind
        if piece.kind == "row" and piece.header:
            headings = (*headings, squeeze(" | ".join(piece.header)))
        elif piece.kind == "row":  # the line of the columns' names: goes with the first row, as a heading does
            kind = "heading"
        blocks.append(Block(piece.start, piece.end, kind, headings))
        if piece.kind == "heading" and piece.title:
            path.append((piece.level, squeeze(piece.title)))
    return [Parsed(text, tuple(blocks), title)]


def scan(text: str) -> Iterator[Piece]:
    """The pieces of a Markdown text, in order, covering all that is not blank."""
    lines = _lines(text)
    index, open_at, open_end = 0, -1, -1  # an open paragraph's span
    fence = ""
    index = _front_matter(text, lines)
    if index:
        yield Piece(lines[0][0], lines[index - 1][1], "text")
    while index < len(lines):
        start, end = lines[index]
        line = text[start:end]
        index += 1
        if fence:
            open_end = end
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        heading = _ATX.match(line) if len(line) <= _MAX_LINE else None
        underline = (
            open_at >= 0
            and bool(_SETEXT.match(line))
            and "\n" not in text[open_at : min(open_end, open_at + _MAX_LINE)]
        )
        table = "|" in line and index < len(lines) and _is_rule(text[slice(*lines[index])], line)
        if open_at >= 0 and (not line.strip() or heading or table) and not underline:
            yield Piece(open_at, open_end, "text")
            open_at = -1
        if not line.strip():
            continue
        if underline:
            yield Piece(open_at, end, "heading", 1 if "=" in line else 2, text[open_at:open_end].strip())
            open_at = -1
        elif heading:
            yield Piece(_ink(text, start), end, "heading", len(heading[1]), (heading[2] or "").strip())
        elif table:
            rows = list(_table(text, lines, index - 1))
            yield from rows
            index += len(rows)  # the rule has no piece of its own: the header's piece takes it in
        else:
            open_at, open_end = (_ink(text, start) if open_at < 0 else open_at), end
            if opening := _FENCE.match(line):
                fence = opening[1]
    if open_at >= 0:
        yield Piece(open_at, open_end, "text")


def _lines(text: str) -> list[tuple[int, int]]:
    """Spans of the lines without their ends and without trailing white space."""
    spans, start = [], 0
    for line in text.split("\n"):
        spans.append((start, start + len(line.rstrip())))
        start += len(line) + 1
    return spans


def _ink(text: str, start: int) -> int:
    while text[start].isspace():
        start += 1
    return start


def _front_matter(text: str, lines: list[tuple[int, int]]) -> int:
    """The number of lines of a YAML preamble between two "---" lines, 0 where there is none."""
    if text[slice(*lines[0])] == "---":
        for index, (start, end) in enumerate(lines[1:60], start=1):
            if text[start:end] == "---" and index > 1:
                return index + 1
    return 0


def _is_rule(rule: str, header: str) -> bool:
    return (
        len(rule) <= _MAX_LINE
        and "-" in rule
        and bool(_RULE.match(rule))
        and len(split_cells(rule)) == len(split_cells(header))
    )


def split_cells(line: str) -> tuple[str, ...]:
    """The cells of a table's line; "\\|" does not end a cell."""
    parts = re.split(r"(?<!\\)\|", line.strip())
    parts = parts[1:] if parts and not parts[0].strip() else parts
    parts = parts[:-1] if parts and not parts[-1].strip() else parts
    return tuple(part.strip().replace("\\|", "|") for part in parts)


def _table(text: str, lines: list[tuple[int, int]], index: int) -> Iterator[Piece]:
    header = split_cells(text[slice(*lines[index])])
    yield Piece(_ink(text, lines[index][0]), lines[index + 1][1], "row", cells=header)
    for start, end in lines[index + 2 :]:
        line = text[start:end]
        if "|" not in line:
            return
        yield Piece(_ink(text, start), end, "row", cells=split_cells(line), header=header)
