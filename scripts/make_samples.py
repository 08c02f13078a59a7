#!/usr/bin/env python
"""Write the binary files of the sample corpus (pdf, docx, xlsx, pptx, sqlite) from the text below.

    python scripts/make_samples.py [--out samples/documents]

Run by hand after the text here was changed; the results are committed, so nobody needs this to use the project. It
needs two packages that the project itself does not: `pip install "reportlab>=4,<6" "python-docx>=1.1,<2"` (openpyxl and
python-pptx come with the extra `documents`). The same packages give the same bytes: dates are fixed and the members of
the Office archives are written anew. The text files beside them are edited directly.
"""

from __future__ import annotations

import argparse
import io
import re
import sqlite3
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edge.files import write_atomic

OUT = Path(__file__).resolve().parent.parent / "samples" / "documents"
STAMP = "2026-11-02T08:00:00Z"
ZIP_TIME = (2026, 11, 2, 8, 0, 0)

Section = tuple[str, Sequence[str]]

# One tuple a page: its title, then sections of plain lines. Which page a figure stands on is part of the questions.
DATA_SHEET: Sequence[tuple[str, Sequence[Section]]] = (
    (
        "Fjordlink GW-200 data sheet",
        (
            (
                "What it is",
                (
                    "The Fjordlink GW-200 is an edge gateway for pumping stations, dams and fish farms.",
                    "It is made by Halden Instruments.",
                    "This is edition 7, of November 2026.",
                ),
            ),
            (
                "Electrical data",
                (
                    "The supply voltage may lie between 12 and 36 volts of direct current.",
                    "The gateway typically draws 6.5 watts. With the modem sending it draws up to 11 watts.",
                    "The input is protected against reversed polarity.",
                ),
            ),
            (
                "Computing",
                (
                    "The real-time clock drifts by less than 3 seconds a week.",
                    "The memory is 2 GB. The storage is 32 GB of soldered flash.",
                    "The processor has four Arm cores at 1.6 GHz.",
                ),
            ),
        ),
    ),
    (
        "Environment and mechanics",
        (
            (
                "Climate",
                (
                    "The gateway works at air temperatures from -30 to +65 degrees Celsius.",
                    "It can be stored at temperatures from -40 to +85 degrees Celsius.",
                    "The humidity may be 5 to 95 percent without condensation.",
                    "It may be used up to 3000 metres above the sea.",
                ),
            ),
            (
                "Housing",
                (
                    "The housing is made of powder-coated aluminium and has the protection class IP30.",
                    "It is 45 mm wide, 120 mm high and 110 mm deep.",
                    "The gateway weighs 480 grams.",
                ),
            ),
            (
                "Reliability",
                (
                    "The mean time between failures is 310,000 hours at 25 degrees Celsius.",
                    "The flash is made to last for twelve years.",
                ),
            ),
        ),
    ),
    (
        "Interfaces and ordering",
        (
            (
                "Interfaces",
                (
                    "There are two Ethernet ports of 1 Gbit/s with RJ45 sockets.",
                    "There are two RS-485 ports. Each is isolated up to 2500 volts.",
                    "There are four digital inputs and two relay outputs.",
                    "A relay output can switch 2 amperes at 30 volts.",
                    "The antenna socket is of the type SMA.",
                ),
            ),
            (
                "Models",
                (
                    "Model GW-200-X may be used in explosive areas of zone 2.",
                    "Model GW-200-C has an LTE modem for the mobile network.",
                    "Model GW-200-S has no modem.",
                ),
            ),
            (
                "Warranty",
                (
                    "The warranty lasts 36 months from the day of delivery.",
                    "Spare parts can be bought for ten years after the last gateway was made.",
                    "Damage by lightning is not covered.",
                ),
            ),
        ),
    ),
)

PROTOCOL_DETAILS = (
    ("Site", "Granli dam, gate house"),
    ("Date of the test", "16 April 2026"),
    ("Tested by", "Jonas Petersen, Halden Instruments"),
    ("Accepted by", "Runa Eide, Granli Power Company"),
    ("Weather", "Sleet, 2 degrees Celsius"),
)
PROTOCOL_TESTS = (
    ("Test", "Limit", "Measured", "Result"),
    ("Supply voltage under load", "23.0 to 25.0 volts", "24.3 volts", "passed"),
    ("Resistance to earth", "5 ohm", "1.9 ohm", "passed"),
    ("Insulation of the supply cable", "1 megohm", "210 megohm", "passed"),
    ("Signal of the mobile network", "-105 dBm", "-87 dBm", "passed"),
    ("Error rate of the bus", "0.10 percent", "0.02 percent", "passed"),
    ("Noise on input 3", "50 millivolts", "71 millivolts", "failed, repeated after repair"),
)
PROTOCOL_SECTIONS: Sequence[Section] = (
    (
        "Test of the buffer",
        (
            "We pulled out the uplink for 35 minutes. Afterwards all 4,200 readings arrived in the control room.",
            "The order of the readings was right.",
        ),
    ),
    (
        "Remarks",
        (
            "The noise on input 3 came from a lamp with a bad ballast. The lamp was replaced with an LED lamp.",
            "The spare key of the cabinet is kept by the dam keeper, Olav Tangen.",
        ),
    ),
    (
        "Open points",
        (
            "The label of cable W12 is missing. Granli Power Company adds it before 30 June 2026.",
            "The next inspection of the site is due in April 2027.",
        ),
    ),
)

SPARE_PARTS = (
    ("Order number", "Part", "Price", "Delivery", "Remark"),
    ("HP-1001", "Power plug with screw terminals", "EUR 4.90", "2 days", "packet of five"),
    ("HP-1002", "Fuse F1, slow-blow", "EUR 3.20", "2 days", "packet of ten"),
    ("HP-1003", "Power supply PS-24 for the DIN rail", "EUR 68.00", "5 days", "60 watts"),
    ("HP-1004", "Capacitor module", "EUR 21.50", "10 days", "keep dry"),
    ("HP-1005", "Clock battery", "EUR 2.75", "2 days", "lithium, no air freight"),
    ("HP-2001", "Rod antenna for indoor use", "EUR 14.40", "3 days", "2 dBi"),
    ("HP-2002", "Wall antenna for outdoor use", "EUR 57.60", "8 days", "with 5 metres of cable"),
    ("HP-2003", "Antenna cable, 10 metres", "EUR 33.10", "3 days", "low loss"),
    ("HP-3001", "Front cover with hinge", "EUR 9.80", "6 days", "grey"),
    ("HP-3002", "Tamper seal", "EUR 1.15", "2 days", "numbered, sheet of 20"),
    ("HP-3003", "DIN rail clip of steel", "EUR 5.60", "4 days", "replaces the plastic clip"),
    ("HP-4001", "Service cable, 1.5 metres", "EUR 7.30", "2 days", "shielded"),
    ("HP-4002", "USB stick for backups", "EUR 16.90", "2 days", "16 GB, industrial grade"),
)
ORDER_TERMS = (
    ("Topic", "Rule"),
    ("Smallest order", "An order must be worth at least EUR 40."),
    ("Freight", "Freight is free for orders above EUR 250."),
    ("Return", "Unused parts can be sent back within 21 days."),
    ("Payment", "Invoices are due after 30 days."),
)

# (title, lines, what the trainer says)
TRAINING: Sequence[tuple[str, Sequence[str], str]] = (
    (
        "Fjordlink GW-200: training day for service staff",
        ("Held by Lena Hofmann, Halden Instruments", "Edition of autumn 2026"),
        "Welcome everybody and check the list of names.",
    ),
    (
        "The course in numbers",
        (
            "The course lasts four hours and has two breaks.",
            "At most eight people take part, two at each training rack.",
            "Lunch is served in the canteen at noon.",
        ),
        "The fire exit is beside the coffee machine.",
    ),
    (
        "Three golden rules",
        (
            "Take a photograph before you unplug anything.",
            "Wear the wrist strap when the front cover is open.",
            "Never work alone in a cabinet that is under voltage.",
        ),
        "Tell the story of the two swapped cables from Tveitnes.",
    ),
    (
        "Finding a fault in five steps",
        (
            "Look at the lamps, read the error code, check the supply, check the cables, then check the settings.",
            "Write down each step: the next person will thank you.",
        ),
        "Most faults, about seven out of ten, are bad cables or plugs.",
    ),
    (
        "Exercise at the rack",
        (
            "The trainer hides three faults in each rack.",
            "You have 25 minutes to find them.",
            "The team that needs the fewest spare parts wins a torch.",
        ),
        "Do not hide a fault in the power supply.",
    ),
    (
        "Exam and certificate",
        (
            "The exam has 20 questions. You pass with 16 right answers.",
            "The certificate is valid for three years.",
            "Who fails may try again after two weeks.",
        ),
        "Hand out the certificates before people leave.",
    ),
    (
        "Next training days",
        (
            "12 January 2027 in Halden",
            "9 February 2027 in Flensburg",
            "Send your name to training@haldeninstruments.example.",
        ),
        "The course in Flensburg is held in German.",
    ),
)

SITES = (
    ("name", "kind", "owner", "access"),
    ("Vesterholm pumping station", "pumping station", "Vesterholm Municipality", "key box beside the gate"),
    ("Tveitnes fish farm", "fish farm", "Tveitnes Salmon", "by boat from the quay at Tveitnes"),
    ("Langmo waterworks", "waterworks", "Langmo Water Board", "ring the bell at the main door"),
    ("Kjelvik tunnel", "road tunnel", "Road Office North", "only at night between 22:00 and 05:00"),
    ("Granli dam", "dam", "Granli Power Company", "snow scooter in winter"),
    ("Skarvøy ferry quay", "ferry quay", "Skarvøy Harbour", "after the last ferry at 23:15"),
    ("Brenna greenhouse", "greenhouse", "Brenna Gardens", "through the packing hall"),
)
DEVICES = (
    ("serial", "site", "model", "firmware", "installed_on", "field_devices"),
    ("HG2004117", "Vesterholm pumping station", "GW-200-S", "4.1.2", "2024-05-21", 9),
    ("HG2004206", "Tveitnes fish farm", "GW-200-C", "4.2.0", "2024-08-13", 22),
    ("HG2003980", "Langmo waterworks", "GW-200-S", "4.1.2", "2023-11-07", 17),
    ("HG2004388", "Kjelvik tunnel", "GW-200-S", "4.2.0", "2025-02-18", 48),
    ("HG2004512", "Granli dam", "GW-200-C", "4.2.0", "2026-03-25", 6),
    ("HG2004290", "Skarvøy ferry quay", "GW-200-C", "4.1.0", "2024-10-29", 11),
    ("HG2004530", "Brenna greenhouse", "GW-200-X", "4.2.0", "2026-07-06", 31),
)


def data_sheet() -> bytes:
    """The PDF: one A4 page per entry of DATA_SHEET, real text, page numbers at the foot."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    stream = io.BytesIO()
    canvas = Canvas(stream, pagesize=A4, invariant=1)
    canvas.setTitle(DATA_SHEET[0][0])
    canvas.setAuthor("Halden Instruments")
    for number, (title, sections) in enumerate(DATA_SHEET, 1):
        height = A4[1] - 80
        canvas.setFont("Helvetica-Bold", 18)
        canvas.drawString(60, height, title)
        for heading, lines in sections:
            height -= 36
            canvas.setFont("Helvetica-Bold", 13)
            canvas.drawString(60, height, heading)
            canvas.setFont("Helvetica", 10.5)
            for line in lines:
                height -= 18
                canvas.drawString(60, height, line)
        canvas.setFont("Helvetica", 8)
        canvas.drawString(60, 40, f"Fjordlink GW-200 - page {number} of {len(DATA_SHEET)}")
        canvas.showPage()
    canvas.save()
    return stream.getvalue()


def protocol() -> bytes:
    """The docx: headings, a table of details, a table of measurements, paragraphs."""
    from docx import Document

    document = Document()
    document.add_heading("Commissioning protocol: Granli dam", 1)
    _docx_table(document, PROTOCOL_DETAILS)
    document.add_heading("Measurements", 2)
    _docx_table(document, PROTOCOL_TESTS, header=True)
    for heading, paragraphs in PROTOCOL_SECTIONS:
        document.add_heading(heading, 2)
        for paragraph in paragraphs:
            document.add_paragraph(paragraph)
    document.core_properties.author = "Halden Instruments"
    stream = io.BytesIO()
    document.save(stream)
    return normalise_zip(stream.getvalue())


def _docx_table(document, rows: Sequence[Sequence[str]], header: bool = False) -> None:
    from docx.oxml import OxmlElement

    table = document.add_table(rows=0, cols=len(rows[0]))
    for row in rows:
        for cell, value in zip(table.add_row().cells, row, strict=True):
            cell.text = value
    if header:
        table.rows[0]._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))


def spare_parts() -> bytes:
    """The xlsx: one sheet of parts, one of terms."""
    from openpyxl import Workbook

    book = Workbook()
    for name, rows in (("Spare parts", SPARE_PARTS), ("Terms", ORDER_TERMS)):
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.remove(book.worksheets[0])
    book.properties.creator = "Halden Instruments"
    stream = io.BytesIO()
    book.save(stream)
    return normalise_zip(stream.getvalue())


def training() -> bytes:
    """The pptx: a title, lines and the trainer's notes on each slide."""
    from pptx import Presentation

    presentation = Presentation()
    for title, lines, note in TRAINING:
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = "\n".join(lines)
        slide.notes_slide.notes_text_frame.text = note
    presentation.core_properties.author = "Halden Instruments"
    stream = io.BytesIO()
    presentation.save(stream)
    return normalise_zip(stream.getvalue())


def fleet() -> bytes:
    """The SQLite database: the tables `sites` and `devices`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.sqlite"
        with closing(sqlite3.connect(path)) as connection, connection:
            for table, (columns, *rows) in (("sites", SITES), ("devices", DEVICES)):
                kinds = ("integer" if isinstance(value, int) else "text" for value in rows[0])
                spec = ", ".join(f"{column} {kind} not null" for column, kind in zip(columns, kinds, strict=True))
                connection.execute(f"create table {table} (id integer primary key, {spec})")
                marks = ", ".join("?" * len(columns))
                connection.executemany(f"insert into {table} ({', '.join(columns)}) values ({marks})", rows)
        return path.read_bytes()


def normalise_zip(data: bytes) -> bytes:
    """An Office archive with every trace of the clock replaced by STAMP, so that equal text gives equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                pattern = rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*"
                content = re.sub(pattern, rb"\g<1>" + STAMP.encode(), content)
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.external_attr = 0o644 << 16
            target.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return stream.getvalue()


FILES = {
    "data-sheet.pdf": data_sheet,
    "commissioning-protocol.docx": protocol,
    "spare-parts.xlsx": spare_parts,
    "training-day.pptx": training,
    "fleet.sqlite": fleet,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the binary files of the sample corpus.")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: samples/documents)")
    out: Path = parser.parse_args(arguments).out
    for name, build in FILES.items():
        write_atomic(out / name, build())
        print(f"{out / name}: {(out / name).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
