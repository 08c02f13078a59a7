"""Bytes to text: byte order marks, UTF-8, else a guess by charset-normalizer; refuses what is not text."""

from __future__ import annotations

import codecs
import re

from edge.errors import DocumentError

_BOMS = (  # the longer ones first: UTF-32-LE begins with UTF-16-LE's mark
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive or an Office file",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "a gzip archive",
    b"SQLite format 3\x00": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office file",
}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_FEW_CONTROLS = 4
_LEAST_SAMPLE = 32  # bytes from which a language can be told from another by its letters
_SAMPLE_BYTES = 64 * 1024
_CODE_PAGES = [  # tried in this order, so that a tie goes to the commonest
    "cp1252",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "koi8_r",
    "shift_jis",
    "euc_jp",
    "gb18030",
    "big5",
    "euc_kr",
    "cp1255",
    "cp1256",
]


def decode(data: bytes) -> str:
    """The text of a file's bytes.

    :raises DocumentError: the file is empty, looks binary, or is in an encoding that cannot be told.
    """
    if not data.strip():
        raise DocumentError("the file is empty")
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _strict(data, name)
    for signature, what in _SIGNATURES.items():
        if data.startswith(signature):
            raise DocumentError(f"looks binary (it begins like {what}): give the file its proper ending")
    sample = data[:_SAMPLE_BYTES]
    if bare := _bare_utf16(sample):
        return _strict(data, bare)
    if len(_CONTROL.findall(sample)) > max(_FEW_CONTROLS, 0.02 * len(sample)):
        raise DocumentError("looks binary: it is full of control characters, so it is no text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _guess(data)


def _strict(data: bytes, name: str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"begins with the mark of {name}, but byte {error.start} is not valid in it: save the file again as UTF-8"
        ) from None


def _bare_utf16(sample: bytes) -> str | None:
    """UTF-16 without its mark: in most texts every second byte is zero."""
    even, odd = sample[0::2], sample[1::2]
    if odd and odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.05 * len(even):
        return "utf-16-le"
    if odd and even.count(0) > 0.4 * len(even) and odd.count(0) < 0.05 * len(odd):
        return "utf-16-be"
    return None


def _guess(data: bytes) -> str:
    as_utf8 = data.decode("utf-8", "replace")
    broken = as_utf8.count("\ufffd")
    good = sum(len(run) for run in re.findall(r"[^\x00-\x7f\ufffd]+", as_utf8))
    if good > 10 * broken:  # UTF-8 with a few damaged bytes, which no other encoding would read better
        return as_utf8
    del as_utf8
    from charset_normalizer import from_bytes

    # Judge the stretch around the first bytes that are not ASCII: a long English preamble says nothing.
    first = next((m.start() for m in re.finditer(rb"[\x80-\xff]", data)), 0)
    at = max(0, first - 1024)
    sample = data[at : at + _SAMPLE_BYTES]
    matches = list(from_bytes(sample, cp_isolation=_CODE_PAGES))
    if not matches:
        raise DocumentError("looks binary, or its encoding cannot be told: save the file as UTF-8")
    best = matches[0]
    tied = [m.encoding for m in matches if (m.chaos, m.coherence) == (best.chaos, best.coherence)]
    name = min(tied, key=_CODE_PAGES.index)
    if name == "cp1252" and "cp1250" in tied and _is_central_european(sample):
        name = "cp1250"
    return data.decode(name, "replace")


def _is_central_european(sample: bytes) -> bool:
    """Western and Central European text look alike to charset-normalizer; the language tells them apart."""
    from edge.ingest.language import detect

    return len(sample) >= _LEAST_SAMPLE and detect(sample.decode("cp1250", "replace")) in ("cs", "hu", "pl", "ro")
