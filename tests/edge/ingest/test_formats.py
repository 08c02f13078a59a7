"""Each format: real files through the real parser process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from edge.config import IngestConfig
from edge.errors import DocumentError, UnsupportedDocument
from edge.ingest.read import Reader
from edge.types import Block, Document

Read = Callable[..., Document]


@pytest.fixture
def read(reader: Reader, tmp_path: Path) -> Read:
    def write_and_read(name: str, content: str | bytes, **options: str) -> Document:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        (document,) = reader.read(path, **{"language": "en", **options})
        check(document)
        return document

    return write_and_read


def check(document: Document) -> None:
    """What holds for every document: blocks in order, disjoint, trimmed, and covering all that is not blank."""
    at = 0
    for block in document.blocks:
        assert not document.text[at : block.start].strip()
        assert at <= block.start < block.end <= len(document.text)
        body = document.text[block.start : block.end]
        assert body == body.strip()
        at = block.end
    assert not document.text[at:].strip()


def said(document: Document, kind: str | None = None) -> list[str]:
    return [document.text[b.start : b.end] for b in document.blocks if kind is None or b.kind == kind]


def block_of(document: Document, text: str) -> Block:
    return next(b for b in document.blocks if text in document.text[b.start : b.end])


def test_plain_text_is_kept_as_it_stands(read: Read, tmp_path: Path) -> None:
    content = "First line\nsecond line\n\n  \n   Indented paragraph.  \n\nLast"
    document = read("notes.txt", content)
    assert document.text == content
    assert said(document) == ["First line\nsecond line", "Indented paragraph.", "Last"]
    assert (document.type, document.title, document.source) == ("txt", "notes", (tmp_path / "notes.txt").as_posix())


def test_line_ends_controls_and_unicode_are_normalised(read: Read) -> None:
    document = read("mess.txt", "one\r\ntwo\rthree\x00four\x07 A\u030a so\u00adft\u2028end".encode())
    assert document.text == "one\ntwo\nthree four  Å soft\nend"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1"])
def test_encodings(read: Read, encoding: str) -> None:
    text = "Gatewayen må startes på nytt. Kjøling: sjekk viften før du åpner døren, så unngår du støv i røret."
    assert read("norsk.txt", text.encode(encoding)).text == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Blåbær"),
        ("cp1252", "Das Gerät muss nach dem Stromausfall geprüft werden, außer bei Störungen."),
        ("cp1250", "A készüléket áramszünet után újra kell indítani. Ellenőrizze a ventilátort, és tűrje őt."),
        ("cp1250", "Urządzenie należy uruchomić ponownie po zaniku zasilania. Sprawdź wentylator i źródło."),
        ("cp1251", "Устройство необходимо перезапустить после отключения питания."),
        ("koi8_r", "Устройство необходимо перезапустить после отключения питания."),
        ("cp1253", "Η συσκευή πρέπει να επανεκκινηθεί μετά από διακοπή ρεύματος."),
        ("shift_jis", "停電後は装置を再起動してください。ファンを確認してください。"),
        ("gb18030", "断电后必须重新启动设备。请检查风扇和电缆。"),
    ],
)
def test_other_code_pages_are_guessed(read: Read, encoding: str, text: str) -> None:
    assert read("old.txt", text.encode(encoding)).text == text


def test_utf8_with_a_damaged_byte_stays_utf8(read: Read) -> None:
    content = "Blåbærsyltetøy på brødskiva. " * 20
    assert read("cut.txt", content.encode() + b"\xc3").text == content + "\ufffd"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "looks binary"),
        (bytes(range(256)) * 40, "looks binary"),
        (b"%PDF-1.4 and so on", "looks binary"),
        (b"\xff\xfea\x00b\x00\x00\xd8", "not valid"),
        ("\u00ad\ufeff\u00ad".encode(), "no text"),
    ],
)
def test_what_is_no_text_is_refused(read: Read, content: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason) as caught:
        read("file.txt", content)
    assert "file.txt" in str(caught.value)


def test_markdown(read: Read) -> None:
    content = (
        "---\nauthor: me\n---\n\n# Manual #\n\nIntro text\nover two lines.\n\n## Errors\n"
        "| Code | Meaning |\n|------|:-------:|\n| E1 | too hot \\| dry |\n| E2 | cold |\n\n"
        "```sh\n# not a heading\n\nrun\n```\n\nCare\n----\n\n- clean\n- dry\n\n# Other\n\nlast"
    )
    document = read("manual.md", content)
    assert document.text == content
    assert document.title == "Manual"
    assert said(document, "heading") == [
        "# Manual #",
        "## Errors",
        "| Code | Meaning |\n|------|:-------:|",
        "Care\n----",
        "# Other",
    ]
    assert said(document, "row") == ["| E1 | too hot \\| dry |", "| E2 | cold |"]
    assert block_of(document, "too hot").headings == ("Manual", "Errors", "Code | Meaning")
    assert block_of(document, "- clean").headings == ("Manual", "Care")
    assert block_of(document, "not a heading").kind == "text"
    assert block_of(document, "last").headings == ("Other",)


def test_html(read: Read) -> None:
    page = """<!doctype html><html><head><title>Page &amp; title</title><style>p {}</style></head><body>
    <script>var x = "<p>no</p>";</script><!-- no --><p>Before <b>any</b> heading<br>next line
    <h1>Cooling</h1><p>Keep the &aring;ir <a href="x">flowing</a>.<ul><li>one<li><p>two</p></ul>
    <table><caption>Limits</caption><tr><th>Part<th>Max<tr><td>CPU<td>80&nbsp;C<tr><td>SSD<td><p>70</p> C</table>
    <h2>Sub<p>after an unclosed heading<pre>a
      b</pre></body></html>"""
    document = read("page.html", page)
    assert document.title == "Cooling"
    assert said(document) == [
        "Before any heading\nnext line",
        "Cooling",
        "Keep the åir flowing.",
        "- one",
        "- two",
        "Limits",
        "Part: CPU; Max: 80\xa0C",
        "Part: SSD; Max: 70 C",
        "Sub",
        "after an unclosed heading",
        "a\n      b",
    ]
    assert block_of(document, "unclosed").headings == ("Cooling", "Sub")
    assert read("bare.html", "<title>Only title</title><p>text").title == "Only title"


def test_html_tables_without_header(read: Read) -> None:
    document = read("t.html", "<table><tr><td>Site<td>Oslo<tr><td>Date<td>2026-04-16</table>")
    assert said(document) == ["Site: Oslo", "Date: 2026-04-16"]
    assert said(read("h.html", "<table><tr><th>A<th>B</table>")) == ["A; B"]
    nested = read("n.html", "<table><tr><td>outer<table><tr><td>inner</table>more</table>")
    assert sorted(said(nested)) == ["inner", "outer more"]


def test_html_declared_encoding(read: Read) -> None:
    page = '<html><head><meta charset="iso-8859-5"></head><body><p>Привет</body></html>'
    assert said(read("ru.html", page.encode("iso-8859-5"))) == ["Привет"]


def test_pdf_pages_paragraphs_and_title(read: Read, make_pdf: Callable[..., bytes]) -> None:
    wrapped = [
        "The gateway measures the temperature of its processor once a second and",
        "switches the fan on above sixty degrees.",
        "Below fifty degrees the fan stops.",
    ]
    document = read("manual.pdf", make_pdf([wrapped, ["Second page: resets."]], title="The Manual"))
    assert document.title == "The Manual"
    assert said(document) == [" ".join(wrapped[:2]), wrapped[2], "Second page: resets."]
    assert [b.page for b in document.blocks] == [1, 1, 2]


def test_pdf_that_cannot_be_read(read: Read, make_pdf: Callable[..., bytes]) -> None:
    good = make_pdf([["Some text."]])
    assert "Some text." in read("good.pdf", good).text
    with pytest.raises(DocumentError, match="encrypted"):
        read("locked.pdf", make_pdf([["Some text."]], password=b"secret"))
    with pytest.raises(DocumentError, match="damaged, cut off"):
        read("cut.pdf", good[: len(good) // 3])
    with pytest.raises(DocumentError, match="damaged, cut off"):
        read("noise.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 100)
    with pytest.raises(DocumentError, match="scanned"):
        read("scan.pdf", make_pdf([[], []]))


def test_docx(reader: Reader, make_docx: Callable[..., None], tmp_path: Path) -> None:
    def paragraph(text: str, style: str = "") -> str:
        look = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{look}<w:r><w:t>{text}</w:t></w:r></w:p>"

    def row(*cells: str) -> str:
        return "<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in cells) + "</w:tr>"

    table = (
        "<w:tbl>" + row("Code", "Meaning", "Action") + row("E_1", "hot", "cool") + row("E_2", "*cold*", "") + "</w:tbl>"
    )
    body = paragraph("Handbook", "H1") + paragraph("Use 5 * 3 [mm] screws.") + paragraph("Errors", "H2") + table
    make_docx(tmp_path / "a.docx", body)
    (document,) = reader.read(tmp_path / "a.docx", language="en")
    check(document)
    assert document.title == "Handbook"
    assert said(document) == [
        "Handbook",
        "Use 5 * 3 [mm] screws.",
        "Errors",
        "Code: E_1; Meaning: hot; Action: cool",
        "Code: E_2; Meaning: *cold*",
    ]
    assert block_of(document, "hot").headings == ("Handbook", "Errors")


def test_xlsx(reader: Reader, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    import datetime

    book = openpyxl.Workbook()
    parts = book.active
    parts.title = "Parts"
    for line in (["Stock list"], ["Number", "Name", "Price", "Since"], [1, "Fan", 12.5, datetime.datetime(2026, 1, 2)]):
        parts.append(line)
    parts.append([2, None, 3.0])
    book.create_sheet("Empty")
    book.create_sheet("Codes").append(["Only", "Header"])
    book.save(tmp_path / "stock.xlsx")
    (document,) = reader.read(tmp_path / "stock.xlsx", language="en")
    check(document)
    assert document.title == "stock"
    assert said(document) == [
        "Parts",
        "Stock list",
        "Number: 1; Name: Fan; Price: 12.5; Since: 2026-01-02",
        "Number: 2; Price: 3",
        "Codes",
        "Only; Header",
    ]
    assert block_of(document, "Fan").headings == ("Parts",)


def test_pptx(reader: Reader, tmp_path: Path) -> None:
    pptx = pytest.importorskip("pptx")

    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Training"
    first.placeholders[1].text = "Bring your laptop."
    second = deck.slides.add_slide(deck.slide_layouts[6])
    box = second.shapes.add_textbox(0, 0, 10, 10)
    box.text_frame.text = "No title here."
    deck.save(tmp_path / "deck.pptx")
    (document,) = reader.read(tmp_path / "deck.pptx", language="en")
    check(document)
    assert document.title == "Training"
    assert said(document) == ["Training", "Bring your laptop.", "Slide 2", "No title here."]
    assert [b.page for b in document.blocks] == [1, 1, 2, 2]


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx", "a.pptx"])
def test_damaged_office_files(read: Read, name: str) -> None:
    with pytest.raises(DocumentError, match="damaged"):
        read(name, b"PK\x03\x04 and then nothing")
    with pytest.raises(DocumentError, match="encrypted"):
        read(name, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_dialects(read: Read, delimiter: str) -> None:
    rows = [["Code", "Meaning"], ["E1", f'too "hot"{delimiter} or\nworse'], ["E2", ""], ["E3", "1,5", "extra"]]
    content = "\n".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    document = read("codes.csv", content)
    separator = " " if delimiter == "\t" else delimiter
    assert said(document, "row") == [
        f'Code: E1; Meaning: too "hot"{separator} or worse',
        "Code: E2",
        "Code: E3; Meaning: 1,5; extra",
    ]


def test_csv_without_header_and_with_nothing_else(read: Read) -> None:
    assert said(read("n.csv", "1,2\n3,4\n")) == ["1; 2", "3; 4"]
    assert said(read("h.csv", "name,price\n")) == ["name; price"]
    assert read("t.tsv", "name\tprice\nfan\t3\n").type == "csv"


def test_json_objects_and_lists(read: Read) -> None:
    value = {
        "version": 3,
        "on": True,
        "none": None,
        "network": {"mtu": 1500, "dns": ["1.1.1.1", "9.9.9.9"], "proxy": {"host": "x"}},
        "devices": [{"id": 1, "tags": [{"k": "a"}, {"k": "b"}]}, {"id": 2}],
    }
    document = read("config.json", json.dumps(value))
    assert said(document) == [
        "version: 3; on: true",
        "network",
        "mtu: 1500; dns: 1.1.1.1, 9.9.9.9; proxy.host: x",
        "devices",
        "id: 1; tags.0.k: a; tags.1.k: b",
        "id: 2",
    ]
    assert block_of(document, "id: 2").headings == ("devices",)
    assert said(read("list.json", '[{"a": {"b": 1.5}}, "plain"]')) == ["a.b: 1.5", "plain"]
    assert said(read("lines.jsonl", '{"a": 1}\n\n{"a": "x\\ny\\ud800"}\n')) == ["a: 1", "a: x y\ufffd"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", '{"a": 1,}', "line 1, column 9"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("a.json", "{}", "no text"),
        ("a.json", "9" * 10_000, "cannot be read"),
        ("a.jsonl", '{"a": 1}\n{oops}\n', "line 2"),
    ],
)
def test_bad_json(read: Read, name: str, content: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        read(name, content)


def make_database(path: Path, wal: bool = False) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    if wal:
        connection.execute("pragma journal_mode = wal")
    connection.execute("""
        create table "odd ""name" (id integer primary key, label text, ratio real, picture blob);
        insert into "odd ""name" values (1, 'fan', 0.5, x'00ff'), (2, null, 2.0, null);
        create table empty (a);
        create table log (line);
        insert into log values ('started');
        create view v as select 1;
        create virtual table words using fts5(body);
    """)
    return connection


@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("still_open", [False, True])
def test_database_tables(reader: Reader, tmp_path: Path, wal: bool, still_open: bool) -> None:
    path = tmp_path / "site 100%.db"
    connection = make_database(path, wal)
    if not still_open:
        connection.close()
    before = sorted(tmp_path.iterdir())
    log, odd = reader.read(path, language="en", tags=("t",))
    assert sorted(tmp_path.iterdir()) == before  # nothing is left beside it
    check(odd)
    assert odd.source == f'{path.as_posix()}#odd "name' and odd.title == 'site 100%: odd "name'
    assert said(odd, "row") == ["id: 1; label: fan; ratio: 0.5", "id: 2; ratio: 2.0"]
    assert said(log) == ["line: started"] and log.tags == ("t",) and log.type == "sqlite"
    connection = connection if still_open else apsw.Connection(str(path))
    connection.execute("insert into log values ('stopped')")
    changed, same = reader.read(path, language="en")
    assert same.sha256 == odd.sha256 and changed.sha256 != log.sha256
    assert said(changed) == ["line: started", "line: stopped"]
    connection.close()


def test_databases_that_cannot_be_read(read: Read, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="not an SQLite database"):
        read("a.db", b"no database at all")
    make_database(tmp_path / "good.db").close()
    data = bytearray((tmp_path / "good.db").read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    with pytest.raises(DocumentError, match="damaged"):
        read("bad.db", bytes(data))
    apsw.Connection(str(tmp_path / "none.db")).execute("create table t (a)").close()
    with pytest.raises(DocumentError, match="no table with rows"):
        read("none.db", (tmp_path / "none.db").read_bytes())


def test_missing_extra_says_how_to_install_it() -> None:
    from edge.ingest.formats.base import optional

    with pytest.raises(UnsupportedDocument, match=r"pip install 'edge-slm\[documents\]'"):
        optional("no_such_library")


@pytest.mark.process
def test_missing_extra_through_the_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pdf: Callable[..., bytes]
) -> None:
    (tmp_path / "pypdfium2.py").write_text("raise ModuleNotFoundError('none', name='pypdfium2')")
    (tmp_path / "a.pdf").write_bytes(make_pdf([["Text."]]))
    monkeypatch.syspath_prepend(tmp_path)
    with (
        Reader(IngestConfig()) as own,
        pytest.raises(UnsupportedDocument, match=r"a\.pdf: .*'pypdfium2'.*\[documents\]"),
    ):
        own.read(tmp_path / "a.pdf", language="en")
