"""The reader and its parser process: limits, failures of every kind, and that the next file is not hurt by them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.config import IngestConfig
from edge.errors import DocumentError, DocumentTooLarge, ParserFailed, UnsupportedDocument, UsageError
from edge.ingest.read import Reader, discover

LIMITED = IngestConfig(max_file_bytes=2_000_000, parser_memory_bytes=200 * 2**20, parser_timeout_sec=1.0, language="en")


@pytest.fixture
def fragile() -> Iterator[Reader]:
    """A reader of its own, with narrow limits, for tests that break it."""
    with Reader(LIMITED) as own:
        yield own


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("A short note.")
    return path


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_what_a_document_carries(reader: Reader, note: Path) -> None:
    os.utime(note, (0, 86400 * 365))
    (document,) = reader.read(note, language="no", tags=("a", "b"))
    assert (document.language, document.tags, document.date) == ("no", ("a", "b"), "1971-01-01")
    assert document.sha256 == hashlib.sha256(note.read_bytes()).hexdigest()
    assert reader.read(note)[0].language == "en"  # detected


def test_given_language_must_be_a_code(reader: Reader, note: Path) -> None:
    with pytest.raises(UsageError, match="ISO 639-1"):
        reader.read(note, language="norsk")


def test_one_process_reads_many_files(reader: Reader, note: Path) -> None:
    reader.read(note)
    first = reader.pid
    with pytest.raises(DocumentError):
        reader.read(note.with_name("missing.txt"))
    reader.read(note)
    assert reader.pid == first is not None


def test_limits_before_parsing(fragile: Reader, tmp_path: Path) -> None:
    big = tmp_path / "big.txt"
    with big.open("wb") as stream:
        stream.truncate(200 * 2**20)
    with pytest.raises(DocumentTooLarge, match=r"209,715,200 bytes.*2,000,000.*ingest\.max_file_bytes"):
        fragile.read(big)
    with pytest.raises(UnsupportedDocument, match=r"no reader.*\.md"):
        fragile.read(Path(__file__))
    with pytest.raises(DocumentError, match="not a file"):
        fragile.read(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DocumentError, match="not a file"):
        fragile.read(tmp_path / "pipe.txt")
    odd = tmp_path / os.fsdecode(b"\xff.txt")
    odd.write_text("x")
    with pytest.raises(DocumentError, match="not valid UTF-8"):
        fragile.read(odd)
    assert fragile.pid is None  # none of these took a process


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(reader: Reader, note: Path) -> None:
    note.chmod(0)
    with pytest.raises(DocumentError, match="Permission denied"):
        reader.read(note)


def test_text_that_outgrows_the_file(fragile: Reader, tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("a rather long name of a column" * 2 + ",b\n" + "1,2\n" * 100_000)
    with pytest.raises(DocumentTooLarge, match="text is longer than 4,000,000"):
        fragile.read(path)


@pytest.mark.process
def test_a_parser_that_hangs(fragile: Reader, note: Path) -> None:
    fragile.read(note)
    first = fragile.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(
        ParserFailed, match=r"note\.txt: the parser took longer than 1 s \(ingest\.parser_timeout_sec\)"
    ):
        fragile.read(note)
    assert not is_running(first)
    assert fragile.read(note)[0].text == "A short note."
    assert fragile.pid not in (None, first)


@pytest.mark.process
def test_a_parser_killed_in_the_middle_of_a_file(fragile: Reader, note: Path) -> None:
    fragile.read(note)
    first = fragile.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)  # so that the file cannot be finished before the kill
    threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
    with pytest.raises(ParserFailed, match=r"note\.txt: the parser was killed \(SIGKILL\)"):
        fragile.read(note)
    assert fragile.read(note)[0].text == "A short note."


@pytest.mark.process
def test_a_parser_that_crashes(fragile: Reader, note: Path) -> None:
    fragile.read(note)
    first = fragile.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    threading.Timer(0.2, lambda: [os.kill(first, number) for number in (signal.SIGSEGV, signal.SIGCONT)]).start()
    with pytest.raises(ParserFailed, match=r"crashed \(SIGSEGV\)"):
        fragile.read(note)


@pytest.mark.process
def test_a_parser_that_died_between_files_costs_no_file(fragile: Reader, note: Path) -> None:
    fragile.read(note)
    first = fragile.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: not is_running(first))
    assert fragile.read(note)[0].text == "A short note."


@pytest.mark.process
def test_memory_limit(tmp_path: Path, make_docx: Callable[..., None]) -> None:
    """A zip bomb within the limit on its declared size: the process's own limit stops it."""
    make_docx(tmp_path / "bomb.docx", "<w:p><w:r><w:t>aaaa</w:t></w:r></w:p>" * 100_000, repeat=20)
    message = r"bomb\.docx.*125,829,120 bytes of memory.*ingest\.parser_memory_bytes"
    with Reader(dataclasses.replace(LIMITED, parser_memory_bytes=120 * 2**20, parser_timeout_sec=60.0)) as own:
        with pytest.raises(ParserFailed, match=message):
            own.read(tmp_path / "bomb.docx")
        (tmp_path / "ok.md").write_text("fine")
        assert own.read(tmp_path / "ok.md")[0].text == "fine"


@pytest.mark.process
def test_declared_zip_bomb(tmp_path: Path, make_docx: Callable[..., None]) -> None:
    make_docx(tmp_path / "bomb.docx", " " * 10_000_000, repeat=10)
    narrow = dataclasses.replace(LIMITED, parser_memory_bytes=90 * 2**20, parser_timeout_sec=10.0)
    with Reader(narrow) as own, pytest.raises(DocumentTooLarge, match="unpacks to 100,"):
        own.read(tmp_path / "bomb.docx")


def test_hostile_nesting(reader: Reader, tmp_path: Path) -> None:
    deep = 100_000
    (tmp_path / "deep.html").write_text("<div>" * deep + "bottom" + "</div>" * deep)
    assert reader.read(tmp_path / "deep.html", language="en")[0].text == "bottom"


def test_one_huge_field(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "huge.csv").write_text("name,text\nx," + "word " * 10_000_000 + "\n")
    (document,) = reader.read(tmp_path / "huge.csv", language="en")
    assert len(document.blocks) == 1 and len(document.text) > 49_000_000


@pytest.mark.process
def test_interrupt_leaves_no_stale_answer(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("first")
    second.write_text("second")
    with Reader(LIMITED) as own:
        own.read(first)
        with monkeypatch.context() as patch:
            patch.setattr("edge.ingest.read.select.select", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                own.read(first)
        assert own.pid is None
        assert own.read(second)[0].text == "second"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.process
def test_the_parser_dies_with_its_reader(note: Path) -> None:
    """Even where it is in the middle of a file and its reader is killed outright."""
    script = (
        "import sys, time; from pathlib import Path; from edge.config import IngestConfig; "
        "from edge.ingest.read import Reader\n"
        "r = Reader(IngestConfig(language='en')); r.read(Path(sys.argv[1])); print(r.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(note)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        os.kill(pid, signal.SIGSTOP)  # it cannot see the end of its input
        parent.kill()
        assert wait_until(lambda: not is_running(pid))


@pytest.mark.process
def test_the_parser_gets_a_minimal_environment(reader: Reader, note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    with Reader(LIMITED) as own:
        own.read(note)
        environment = Path(f"/proc/{own.pid}/environ").read_bytes()
        limits = Path(f"/proc/{own.pid}/limits").read_text()
        assert Path(f"/proc/{own.pid}/cwd").readlink() == Path("/")
        pid = own.pid
    assert b"SECRET_TOKEN" not in environment
    assert any("Max data size" in line and str(LIMITED.parser_memory_bytes) in line for line in limits.splitlines())
    assert pid is not None and not is_running(pid)  # closed with its reader


def test_a_parser_that_cannot_start_says_why(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.ingest.read._environment", dict)
    monkeypatch.setattr("edge.ingest.read.sys.executable", "/usr/bin/false")
    with Reader(LIMITED) as own, pytest.raises(ParserFailed, match="does not start"):
        own.read(note)


# discover


def make_tree(root: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.PDF", "sub/deep/d.csv", ".hidden/e.txt", "sub/.f.txt", "g.exe", "sub/h.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_discover_folders(tmp_path: Path) -> None:
    make_tree(tmp_path)
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "again.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    skipped: list[Path] = []
    found = [path.relative_to(tmp_path).as_posix() for path in discover([tmp_path], skipped)]
    assert found == ["a.md", "again.txt", "sub/c.PDF", "sub/deep/d.csv"]  # again.txt and b.txt are one file
    assert {path.name for path in skipped} == {"g.exe", "h.png", "broken.txt"}


def test_discover_named_files(tmp_path: Path) -> None:
    make_tree(tmp_path)
    named = [tmp_path / "g.exe", tmp_path / ".hidden" / "e.txt", tmp_path / "g.exe"]
    assert list(discover(named)) == named[:2]  # what is named is given; Reader.read refuses what it cannot read
    with pytest.raises(UsageError, match="no such file or folder"):
        discover([tmp_path, tmp_path / "nowhere"])
