"""Readers, one small module per family of formats: `parse(source) -> list[Parsed]`. They run in the parser process.

    plain.py     txt, log, rst          table.py     csv, tsv
    markdown.py  md                     records.py   json, jsonl
    html.py      html                   database.py  SQLite tables
    pdf.py       pdf                    office.py    docx, pptx, xlsx

To add a format: write a module with `parse`, name it in `READERS`, and give its endings in `TYPES`.
"""

from __future__ import annotations

from pathlib import PurePath

TYPES: dict[str, str] = {
    ".txt": "txt",
    ".text": "txt",
    ".log": "txt",
    ".rst": "txt",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".xlsx": "xlsx",
    ".pptx": "pptx",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
}
"""File ending (lower case) -> `Document.type`."""

READERS: dict[str, str] = {
    "txt": "plain",
    "md": "markdown",
    "html": "html",
    "pdf": "pdf",
    "docx": "office",
    "pptx": "office",
    "xlsx": "office",
    "csv": "table",
    "json": "records",
    "jsonl": "records",
    "sqlite": "database",
}
"""`Document.type` -> module of this package."""


def type_of(path: PurePath) -> str | None:
    """The type that a file's ending stands for, or None where there is no reader for it."""
    return TYPES.get(path.suffix.lower())
