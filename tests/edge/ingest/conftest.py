"""Small real files of the formats that have no writer in Python's library, and readers to share."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.config import IngestConfig
from edge.ingest.read import Reader

_PAD = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")  # PDF 1.7, algorithm 2
_FILE_ID = b"0123456789abcdef"
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """One reader for all tests that do not break it: its process starts once."""
    with Reader(IngestConfig()) as shared:
        yield shared


@pytest.fixture(scope="session")
def make_pdf() -> Callable[..., bytes]:
    return _pdf


@pytest.fixture(scope="session")
def make_docx() -> Callable[..., None]:
    return _docx


def _pdf(pages: list[list[str]], title: str = "", password: bytes = b"") -> bytes:
    """A PDF with one line of Helvetica per string; with a password, encrypted with RC4 of 40 bits."""
    objects: list[bytes] = [b"", b""]  # catalog and pages come last, but have the numbers 1 and 2
    kids = []
    key, security = _security(password) if password else (b"", b"")
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for lines in pages:
        drawn = b" ".join(
            b"1 0 0 1 50 %d Tm (%s) Tj" % (780 - 14 * i, line.encode("cp1252")) for i, line in enumerate(lines)
        )
        content = b"BT /F1 10 Tf " + drawn + b" ET"
        number = len(objects) + 1
        if key:
            content = _rc4(hashlib.md5(key + struct.pack("<I", number)[:3] + b"\0\0").digest()[:10], content)
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % number
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    objects.append(b"<< /Title (%s) >>" % title.encode())
    info = len(objects)
    if security:
        objects.append(security)
    data = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    extra = b" /Encrypt %d 0 R" % len(objects) if security else b""
    data += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R /ID [<%s> <%s>]%s >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        info,
        _FILE_ID.hex().encode(),
        _FILE_ID.hex().encode(),
        extra,
        xref,
    )
    return bytes(data)


def _security(password: bytes) -> tuple[bytes, bytes]:
    """The key and the security handler's dictionary, revision 2 (PDF 1.7, algorithms 2 to 4)."""
    padded = (password + _PAD)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + struct.pack("<i", -4) + _FILE_ID).digest()[:5]
    user = _rc4(key, _PAD)
    return key, b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (owner.hex().encode(), user.hex().encode())


def _rc4(key: bytes, data: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def _docx(path: Path, body: str, repeat: int = 1) -> None:
    """A Word document of the given WordprocessingML body, which may stand in it many times (a zip bomb)."""
    heading = '<w:style w:type="paragraph" w:styleId="H%d"><w:name w:val="heading %d"/></w:style>'
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{types}"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{word}.document.main+xml"/>'
            f'<Override PartName="/word/styles.xml" ContentType="{word}.styles+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/_rels/document.xml.rels",
            f'<Relationships xmlns="{relations}"><Relationship Id="r1" Type="{office}/styles" '
            'Target="styles.xml"/></Relationships>',
        )
        archive.writestr("word/styles.xml", f'<w:styles xmlns:w="{_W}">{heading % (1, 1)}{heading % (2, 2)}</w:styles>')
        with archive.open("word/document.xml", "w") as stream:
            stream.write(f'<w:document xmlns:w="{_W}"><w:body>'.encode())
            for _ in range(repeat):
                stream.write(body.encode())
            stream.write(b"</w:body></w:document>")
