"""HTML: readable text in blocks; headings, and a row per table record; scripts, styles and forms' machinery dropped."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from edge.ingest.formats.base import Builder, Parsed, Source, squeeze
from edge.ingest.formats.encoding import decode
from edge.ingest.formats.table import records

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

_DROPPED_WORDS = "script style template noscript svg canvas object iframe head select textarea button"
_DROPPED = frozenset(_DROPPED_WORDS.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE_WORDS = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark meter output q rp rt "
    "ruby s samp small span strike strong sub sup time tt u var wbr"
)
_INLINE = frozenset(_INLINE_WORDS.split())
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)


def parse(source: Source) -> list[Parsed]:
    from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        soup = BeautifulSoup(_decode(source.data), "html.parser")
    title = squeeze(soup.title.get_text(" ")) if soup.title is not None else ""
    builder = Builder(source.max_chars)
    _Reader(builder).read(soup.body or soup)
    return [builder.build(builder.first_heading or title)]


def _decode(data: bytes) -> str:
    """The page's own word for its encoding counts, where the bytes agree with it."""
    declared = _CHARSET.search(data[:4096])
    if declared and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        try:
            return data.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass  # an unknown or wrong declaration: the bytes themselves must tell
    return decode(data)


class _Reader:
    """Walks a tree without recursion (pages nest as deep as they like) and hands finished pieces to the builder."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._run: list[str] = []  # of the open paragraph, heading or cell
        self._heading = 0  # level of the open heading
        self._preformatted = 0
        self._tables: list[_Table] = []

    def read(self, root: Tag) -> None:
        for event, name, text in _walk(root):
            if event == "text":
                self._run.append(text if self._preformatted else _spaces(text))
            elif event == "open":
                self._open(name)
            else:
                self._close(name)
        self._flush()

    def _open(self, name: str) -> None:
        if name == "br":
            self._run.append("\n")
        elif name in ("td", "th"):
            self._take_cell()
            if self._tables:
                self._tables[-1].open_cell(name)
        elif name not in _INLINE:
            if name == "tr":  # the one before may lack its end tag
                self._take_row()
            if self._heading and "".join(self._run).strip():
                self._flush()
                self._heading = 0  # its end tag is missing
            self._flush()
            if name == "table":
                self._tables.append(_Table())
            elif name in _HEADINGS:
                self._heading = _HEADINGS[name]
            elif name == "li":
                self._run = ["- "]
            elif name == "pre":
                self._preformatted += 1

    def _close(self, name: str) -> None:
        if name in ("td", "th"):
            self._take_cell()
        elif name == "tr":
            self._take_row()
        elif name == "table" and self._tables:
            self._take_row()
            self._flush()
            table = self._tables.pop()
            for line in records(table.names, table.rows):
                self._builder.row(line)
        elif name not in _INLINE and name != "br":
            self._flush()
            if name in _HEADINGS:
                self._heading = 0
            elif name == "li":
                self._run.clear()
            elif name == "pre":
                self._preformatted = max(0, self._preformatted - 1)

    def _take_cell(self) -> None:
        if self._tables and self._tables[-1].in_cell:
            self._tables[-1].add(_spaces("".join(self._run)))
            self._tables[-1].in_cell = False
            self._run.clear()
        else:
            self._flush()

    def _take_row(self) -> None:
        if self._tables:
            self._take_cell()
            self._tables[-1].close_row()

    def _flush(self) -> None:
        if not self._run:
            return
        text = "".join(self._run)
        if text.strip() == "-" and not self._tables:
            return  # a list item whose text is still to come, in a paragraph of its own
        self._run.clear()
        if self._tables and self._tables[-1].in_cell:
            self._tables[-1].add(_spaces(text))  # a paragraph inside a cell is a part of the cell
        elif self._heading:
            self._builder.heading(_spaces(text), self._heading)
        else:
            self._builder.text("\n".join(line.strip() for line in text.split("\n")) if not self._preformatted else text)


class _Table:
    """Collects a table's rows; a first row of nothing but `th` cells holds its columns' names."""

    def __init__(self) -> None:
        self.in_cell = False
        self.names: list[str] = []
        self.rows: list[list[str]] = []
        self._cells: list[str] = []
        self._all_th = True

    def open_cell(self, name: str) -> None:
        self.in_cell = True
        self._cells.append("")
        self._all_th &= name == "th"

    def add(self, text: str) -> None:
        self._cells[-1] = f"{self._cells[-1]} {text.strip()}".strip()

    def close_row(self) -> None:
        cells, self._cells = self._cells, []
        if any(cells):
            if self._all_th and not self.rows and not self.names:
                self.names = cells
            else:
                self.rows.append(cells)
        self._all_th = True


def _walk(root: Tag) -> Iterator[tuple[Literal["open", "close", "text"], str, str]]:
    from bs4.element import NavigableString, PreformattedString, Tag

    stack: list[tuple[str, Iterator[PageElement]]] = [("", iter(root.children))]
    while stack:
        name, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            if name:
                yield "close", name, ""
        elif isinstance(child, Tag):
            if child.name not in _DROPPED:
                yield "open", child.name, ""
                stack.append((child.name, iter(child.children)))
        elif isinstance(child, NavigableString) and not isinstance(child, PreformattedString):
            yield "text", "", str(child)  # comments, doctypes and CDATA are preformatted strings


def _spaces(text: str) -> str:
    return re.sub(r"[ \t\r\n\f]+", " ", text)
