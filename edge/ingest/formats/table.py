"""CSV and TSV: one block per record, each with its columns' names: "column: value; column: value"."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence

from edge.errors import DocumentError
from edge.ingest.formats.base import Builder, Parsed, Source, clean, one_line, record, squeeze
from edge.ingest.formats.encoding import decode

_DELIMITERS = ",;\t|"
_SAMPLE_CHARS = 16 * 1024
_NAME = re.compile(r"[^\W\d_]")  # a column's name holds a letter ...
_VALUE = re.compile(r"\d{4}-\d\d-\d\d|[-+]?\d[\d.,:/ ]*\s?[^\W\d_]{0,3}$|(?i:true|false|null|yes|no|ja|nei|nein)$")


def parse(source: Source) -> list[Parsed]:
    text = clean(decode(source.data))
    csv.field_size_limit(len(text) + 1)  # the file's size is limited already; 128 KiB, the default, is too little
    delimiter = sniff(text[:_SAMPLE_CHARS], "\t" if source.path.suffix.lower() == ".tsv" else ",")
    rows = (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, row)))
    builder = Builder(source.max_chars)
    try:
        first = next(rows, [])
        names = [squeeze(name, 80) for name in first] if is_header(first) else []
        empty = True
        for row in rows if names else itertools.chain([first], rows):
            builder.row(record(names, row))
            empty = False
    except csv.Error as error:
        raise DocumentError(f"is no table that can be read: {error}") from None
    if empty and names:  # nothing but a header: still worth finding
        builder.row(record((), first))
    return [builder.build()]


def records(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows of a table in a document, one text each; of the names alone where there are no rows.

    Where no names are given, a first row may hold them, or a table of two columns its names in the first.
    """
    if not any(names) and rows:
        if len(rows[0]) == 2:
            yield from (": ".join(filter(None, map(one_line, row))) for row in rows)
            return
        if len(rows) > 1 and is_header(rows[0]):
            names, rows = rows[0], rows[1:]
    yield from (record([squeeze(name, 80) for name in names], row) for row in rows) if rows else [record((), names)]


def sniff(sample: str, default: str) -> str:
    """The delimiter that cuts the sample's records into the same number of cells, more than one, most often."""
    best, best_score = default, 0.0
    for delimiter in dict.fromkeys(default + _DELIMITERS):
        try:
            widths = [
                len(row) for row in itertools.islice(csv.reader(io.StringIO(sample), delimiter=delimiter), 50) if row
            ]
        except csv.Error:
            continue
        if len(widths) > 1 and len(sample) == _SAMPLE_CHARS:
            widths.pop()  # the sample may end inside a record
        usual = max(set(widths), key=lambda width: (widths.count(width), width), default=0)
        score = widths.count(usual) / len(widths) if usual > 1 else 0.0
        if score > best_score:
            best, best_score = delimiter, score
    return best


def is_header(cells: Sequence[str]) -> bool:
    """Whether a first row names columns: all cells filled, distinct, short, with letters, none like a value."""
    names = [one_line(cell) for cell in cells]
    return len(set(names)) == len(names) and all(
        _NAME.search(name[:80]) and not _VALUE.match(name) and len(name) <= 80 for name in names
    )
