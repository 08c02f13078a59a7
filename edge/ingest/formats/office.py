"""Office files: docx and pptx through markitdown (to Markdown, then as markdown.py reads it), xlsx through openpyxl.

openpyxl rather than markitdown's own way (pandas), because that turns whole numbers into floats and gaps into "NaN".
"""

from __future__ import annotations

import datetime
import io
import re
import warnings
import zipfile
from typing import Any

from edge.errors import DocumentError, DocumentTooLarge
from edge.ingest.formats.base import Builder, Parsed, Source, clean, optional, record, squeeze
from edge.ingest.formats.markdown import scan
from edge.ingest.formats.table import is_header, records

_SLIDE = re.compile(r"<!-- Slide number: (\d+) -->\s*")
_IMAGE = re.compile(r"!\[([^\]\n]*)\]\([^()\n]*\)")
_LINK = re.compile(r"\[([^\]\n]+)\]\([^()\n]*\)")
_STRONG = re.compile(r"(\*\*|__)(?=\S)([^\n]+?)(?<=\S)\1")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>~<])")
_OLE = b"\xd0\xcf\x11\xe0"  # what an encrypted Office file, or one of the old formats, begins with


def parse(source: Source) -> list[Parsed]:
    """:raises DocumentError: encrypted, damaged, or another kind of file; DocumentTooLarge: a zip bomb."""
    _check_archive(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these libraries warn about styles and extensions that do not matter to text
        if source.type == "xlsx":
            return [_workbook(source)]
        return [_from_markdown(_to_markdown(source), source)]


def _check_archive(source: Source) -> None:
    if source.data.startswith(_OLE):
        raise DocumentError("it is encrypted, or in the old binary format: save it unprotected as " + source.type)
    try:
        with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile:
        raise DocumentError(f"it is damaged, cut off, or no {source.type} at all") from None
    if any(member.flag_bits & 1 for member in members):
        raise DocumentError("it is encrypted: remove its password")
    unpacked = sum(member.file_size for member in members)
    if unpacked > source.max_unpacked_bytes:
        raise DocumentTooLarge(
            f"it unpacks to {unpacked:,} bytes, above the limit of {source.max_unpacked_bytes:,} "
            "(ingest.parser_memory_bytes)"
        )


def _to_markdown(source: Source) -> str:
    converters, markitdown = optional("markitdown.converters"), optional("markitdown")
    kind = converters.DocxConverter if source.type == "docx" else converters.PptxConverter
    try:
        result = kind().convert(io.BytesIO(source.data), markitdown.StreamInfo(extension=f".{source.type}"))
    except (KeyError, ValueError, AttributeError, zipfile.BadZipFile, zipfile.LargeZipFile, SyntaxError) as error:
        # markitdown lets through whatever its parsers raise on damaged parts; lxml's errors are SyntaxErrors
        raise DocumentError(f"it is damaged, or no {source.type}: {squeeze(str(error), 120)}") from None
    return str(result.markdown)


def _from_markdown(markdown: str, source: Source) -> Parsed:
    builder = Builder(source.max_chars)
    slides = _SLIDE.split(clean(markdown))  # [before, number, slide, number, slide, ...]
    for index in range(0, len(slides), 2):
        page = int(slides[index - 1]) if index else None
        text = slides[index]
        if page and not text.lstrip().startswith("# "):
            builder.heading(f"Slide {page}", 1, page)
        _pieces(builder, text, page)
    title = builder.first_heading
    return builder.build("" if title.startswith("Slide ") else title)


def _pieces(builder: Builder, text: str, page: int | None) -> None:
    table: list[list[str]] = []  # a table's names and records, while it lasts
    for piece in (*scan(text), None):
        if table and (piece is None or not piece.header):
            for line in records(table[0], table[1:]):
                builder.row(line, page)
            table = []
        if piece is None:
            return
        if piece.kind == "heading":
            builder.heading(_plain(piece.title), piece.level, page)
        elif piece.kind == "row":
            table.append([_plain(cell) for cell in piece.cells])
        else:
            builder.text(_plain(text[piece.start : piece.end]), page)


def _plain(text: str) -> str:
    """Text without Markdown's inline marks."""
    for pattern, replacement in ((_IMAGE, r"\1"), (_LINK, r"\1"), (_STRONG, r"\2"), (_ESCAPE, r"\1")):
        text = pattern.sub(replacement, text)
    return text


def _workbook(source: Source) -> Parsed:
    openpyxl = optional("openpyxl")
    try:
        book = openpyxl.load_workbook(io.BytesIO(source.data), read_only=True, data_only=True)
        builder = Builder(source.max_chars)
        for sheet in book.worksheets:
            _sheet(builder, sheet)
        book.close()
    except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, SyntaxError) as error:
        raise DocumentError(f"it is damaged, or no xlsx: {squeeze(str(error), 120)}") from None
    return builder.build()


def _sheet(builder: Builder, sheet: Any) -> None:
    """A sheet's name as a heading, then its rows; the first row of names is the header, titles may stand above it."""
    header: list[str] | None = None  # None until a row of more than one cell came
    body = False
    for row in sheet.iter_rows(values_only=True):
        cells = [_cell(value) for value in row]
        filled = [cell for cell in cells if cell]
        if not filled:
            continue
        if not body and header is None:
            builder.heading(sheet.title, 1)
        if header is None and len(filled) > 1:
            header = [squeeze(clean(cell), 80) for cell in cells] if is_header(filled) else []
            if header:
                continue
        builder.row(record(header or (), cells))
        body = True
    if header and not body:
        builder.row(record((), header))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
