"""PDF through pypdfium2 (PDFium): text page by page, lines put together to paragraphs, page numbers kept."""

from __future__ import annotations

import re
from typing import Any

from edge.errors import DocumentError
from edge.ingest.formats.base import Builder, Parsed, Source, clean, optional, squeeze
from edge.ingest.lines import joined_lines

_HYPHEN = re.compile("(?<=\\w)[\ufffe\x02](?:\r?\n)?")  # PDFium's marks for a hyphen at a line's end
_REASONS = {
    "password": "it is encrypted: remove its password (e.g. save it again without one)",
    "security": "it is encrypted in a way that cannot be read: save it again without protection",
    "data format": "it is damaged, cut off, or no PDF at all",
}


def parse(source: Source) -> list[Parsed]:
    """One or more blocks per page.

    :raises DocumentError: it is encrypted, damaged, or holds no text (a scan).
    """
    pdfium = optional("pypdfium2")
    try:
        pdf = pdfium.PdfDocument(source.data)
        pages = len(pdf)
    except pdfium.PdfiumError as error:
        raise DocumentError(_reason(str(error))) from None
    builder = Builder(source.max_chars)
    try:
        unreadable = sum(not _page(pdfium, pdf, index, builder) for index in range(pages))
        title = squeeze(clean(str(pdf.get_metadata_dict().get("Title") or "")))
    finally:
        pdf.close()
    if unreadable and unreadable == pages:
        raise DocumentError(_REASONS["data format"])
    parsed = builder.build(title)
    if not parsed.blocks:
        raise DocumentError(f"its {pages} page(s) hold no text: it looks scanned; run it through OCR first")
    return [parsed]


def _reason(message: str) -> str:
    lower = message.lower()
    return next((reason for key, reason in _REASONS.items() if key in lower), f"PDFium cannot read it: {message}")


def _page(pdfium: Any, pdf: Any, index: int, builder: Builder) -> bool:
    """Add a page's paragraphs; False where the page is damaged."""
    try:
        page = pdf[index]
        text_page = page.get_textpage()
    except pdfium.PdfiumError:
        return False
    text = _HYPHEN.sub("", text_page.get_text_range())
    text_page.close()
    page.close()
    for paragraph in joined_lines(clean(text)):
        builder.text(paragraph, index + 1)
    return True
