"""What every reader takes and gives, and how extracted text and its blocks are put together."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import DocumentError, DocumentTooLarge, UnsupportedDocument
from edge.types import Block, BlockKind

_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), " ")
_CONTROL |= {ord("\t"): "\t", ord("\n"): "\n", 0x0B: "\n", 0x0C: "\n", 0x85: "\n", 0x2028: "\n", 0x2029: "\n"}
_CONTROL |= {0xFEFF: "", 0xAD: "", 0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}  # a soft hyphen would hide the word it is in
_NEEDS_WORK = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Source:
    """One file as a reader gets it."""

    path: Path
    type: str
    data: bytes  # the whole file; empty for "sqlite", which is read through its path
    max_chars: int  # of extracted text
    max_unpacked_bytes: int  # of all members of an archive


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reader gives: text, its blocks (in order, disjoint, covering all that is not blank), a title if any."""

    text: str
    blocks: tuple[Block, ...]
    title: str = ""
    part: str = ""  # the table's name, for a database
    sha256: str = ""  # where the document is not the whole file


def clean(text: str) -> str:
    """Text as Unicode NFC with "\\n" line ends and without control characters (tab excepted) or lone surrogates."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _NEEDS_WORK.search(text):
        text = _SURROGATES.sub("\ufffd", text).translate(_CONTROL)
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def one_line(text: str) -> str:
    """Cell or heading text on one line; cheap on huge cells, so runs of spaces stay."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def squeeze(text: str, limit: int = 200) -> str:
    """A heading or a title: white space collapsed, at most `limit` characters."""
    short = " ".join(text[: limit * 4].split())
    return short if len(short) <= limit else short[: limit - 1].rstrip() + "…"


def record(names: Sequence[str], values: Iterable[str]) -> str:
    """One row as "column: value; column: value"; empty values are left out, and so are names where there are none."""
    cells = []
    for index, value in enumerate(values):
        if text := one_line(value):
            name = names[index] if index < len(names) else ""
            cells.append(f"{name}: {text}" if name else text)
    return "; ".join(cells)


def optional(module: str) -> Any:
    """Import a library of the extra `documents`.

    :raises UnsupportedDocument: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise UnsupportedDocument(
            f"reading this kind of file needs {missing!r}, which is not installed: pip install 'edge-slm[documents]'"
        ) from error


class Builder:
    """Puts extracted pieces together into one text with exact blocks.

    Pieces are cleaned here, so that the blocks index the text that is kept.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0
        self._path: list[tuple[int, str]] = []  # open headings as (level, title)

    @property
    def headings(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._path)

    @property
    def first_heading(self) -> str:
        """The text of the first heading, "" where there is none."""
        return next((self._parts[2 * i] for i, b in enumerate(self._blocks) if b.kind == "heading"), "")

    def heading(self, text: str, level: int, page: int | None = None) -> None:
        """Add a heading; it closes the open headings of its own level and below."""
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        text = one_line(clean(text))
        if text:
            self._add(text, "heading", page)
            self._path.append((level, squeeze(text)))

    def text(self, text: str, page: int | None = None) -> None:
        self._add(clean(text).strip(), "text", page)

    def row(self, text: str, page: int | None = None) -> None:
        self._add(clean(text).strip(), "row", page)

    def build(self, title: str = "", part: str = "", sha256: str = "") -> Parsed:
        return Parsed("".join(self._parts[:-1]), tuple(self._blocks), title, part, sha256)

    def _add(self, text: str, kind: BlockKind, page: int | None) -> None:
        if not text:
            return
        start = self._length
        both_rows = kind == "row" and bool(self._blocks) and self._blocks[-1].kind == "row"
        if both_rows:  # records stand one a line, everything else is set apart by a blank line
            self._parts[-1] = "\n"
            start -= 1
        self._length = start + len(text) + 2
        if self._length > self._max_chars:
            raise too_long(self._max_chars)
        self._parts += [text, "\n\n"]
        self._blocks.append(Block(start, start + len(text), kind, self.headings, page))


def too_long(max_chars: int) -> DocumentTooLarge:
    return DocumentTooLarge(
        f"its text is longer than {max_chars:,} characters: raise ingest.max_file_bytes, now half of that, or split it"
    )


def no_text(what: str) -> DocumentError:
    return DocumentError(f"{what}: there is nothing to index")
