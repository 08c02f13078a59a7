"""Documents over HTTP: what is accepted is on the disk, and stays queued until it is in the index."""

from __future__ import annotations

import asyncio
import errno
import os
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DocumentTooLarge, StoreFull, UnsupportedDocument, UsageError
from edge.server.backend import BoxSettings
from edge.server.documents import Documents, Record, checked_name


def documents(state: Path) -> Documents:
    settings = BoxSettings("bundle", "index.db", "", str(state / "documents"), 0)
    return Documents(state, settings, 1000)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def put(there: Documents, name: str, *parts: bytes, namespace: str = "default") -> Record:
    return asyncio.run(there.put(namespace, name, pieces(*parts)))


def test_what_is_accepted_is_on_the_disk(tmp_path: Path) -> None:
    record = put(documents(tmp_path), "a b.md", b"# One", b" two")
    again = documents(tmp_path)  # as after a crash
    assert again.get("default", "a b.md") == record
    assert again.path(record).read_bytes() == b"# One two"
    assert record.status == "queued"
    assert again.pending == 1
    assert not list((tmp_path / "uploads").iterdir())


def test_namespaces_do_not_meet(tmp_path: Path) -> None:
    there = documents(tmp_path)
    put(there, "a.md", b"one", namespace="x")
    assert there.all_of("y") == []
    assert there.get("y", "a.md") is None
    assert there.delete("y", "a.md") is None
    assert [record.name for record in there.all_of("x")] == ["a.md"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a.md",
        "/etc/passwd",
        "a/b.md",
        "a\\b.md",
        ".hidden.md",
        "a\0.md",
        "a\n.md",
        "a.md ",
        "a" * 200,
        "手" * 90,
        "a\u202eb.md",
        "a#b.md",
        "\ud800.md",
    ],
)
def test_a_path_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        put(documents(tmp_path), name, b"text")
    assert not list((tmp_path / "documents").iterdir())


@pytest.mark.parametrize(
    "name", ["Håndbok for måleren.md", "Prüfprotokoll (2).md", "手册.md", "नियम.md", "Anna's & co.md"]
)
def test_names_of_any_language(tmp_path: Path, name: str) -> None:
    there = documents(tmp_path)
    put(there, unicodedata.normalize("NFD", name), b"text")  # as some systems spell it
    record = there.get("default", name)
    assert record is not None
    assert record.name == name
    assert there.path(record).read_bytes() == b"text"


@given(st.text(max_size=40))
def test_a_checked_name_never_leaves_its_folder(name: str) -> None:
    try:
        name = checked_name(name)
    except UsageError:
        return
    assert (Path("/state/documents/x") / name).parent == Path("/state/documents/x")
    assert os.path.normpath(f"/state/documents/x/{name}").startswith("/state/documents/x/")


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    there = documents(tmp_path)
    with pytest.raises(UnsupportedDocument, match=r"\.exe|x\.exe"):
        put(there, "x.exe", b"MZ")
    with pytest.raises(UsageError, match="empty"):
        put(there, "x.md")
    with pytest.raises(DocumentTooLarge, match="1000"):
        put(there, "x.md", b"a" * 600, b"a" * 600)
    assert there.all_of("default") == []
    assert not list((tmp_path / "uploads").iterdir())


def test_a_full_disk_is_told_and_the_old_document_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = documents(tmp_path)
    before = put(there, "x.md", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFull, match="No space left"):
        put(there, "x.md", b"new")
    assert there.path(before).read_bytes() == b"old"
    assert there.get("default", "x.md") == before


class Scripted(Documents):
    """The queue without the real indexer."""

    def __init__(self, state: Path, reports: list[dict[str, Any]]) -> None:
        super().__init__(state, documents(state).settings, 1000)
        self.reports, self.jobs = reports, list[tuple[list[str], list[str]]]()

    async def _index(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append((job["add"], job["remove"]))
        if not self.reports:
            raise asyncio.CancelledError
        return self.reports.pop(0)


def work(there: Documents) -> None:
    async def bounded() -> None:
        task = asyncio.create_task(there.work())
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not there.pending:
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(bounded())


def test_each_document_gets_its_own_verdict(tmp_path: Path) -> None:
    bad = str(tmp_path / "documents" / "default" / "bad.pdf")
    there = Scripted(tmp_path, [{"failed": [[bad, "is damaged"]]}])
    put(there, "good.md", b"text")
    put(there, "bad.pdf", b"text")
    work(there)
    assert {r.name: (r.status, r.message) for r in there.all_of("default")} == {
        "good.md": ("ready", ""),
        "bad.pdf": ("failed", "is damaged"),
    }


def test_what_was_accepted_before_a_crash_is_ingested_after_it(tmp_path: Path) -> None:
    first = Scripted(tmp_path, [])  # ends in the middle of the ingest
    put(first, "a.md", b"text")
    work(first)
    assert [r.status for r in documents(tmp_path).all_of("default")] == ["indexing"]
    second = Scripted(tmp_path, [{"failed": []}])
    work(second)
    assert [r.status for r in second.all_of("default")] == ["ready"]


def test_a_file_whose_record_a_power_cut_took_gets_one(tmp_path: Path) -> None:
    there = Scripted(tmp_path, [{"failed": []}])
    record = put(there, "a.md", b"text")
    (tmp_path / "records" / "default" / "a.md.json").unlink()
    work(there)
    found = there.get("default", "a.md")
    assert found is not None
    assert (found.status, found.sha256) == ("ready", record.sha256)


def test_removal_takes_file_record_and_index_rows(tmp_path: Path) -> None:
    there = Scripted(tmp_path, [{"failed": []}, {"failed": [], "removed": 1}])
    record = put(there, "a.md", b"text")
    work(there)
    there.delete("default", "a.md")
    work(there)
    assert there.jobs[1] == ([], [str(there.path(record))])
    assert there.all_of("default") == []
    assert not there.path(record).exists()


def test_replaced_while_it_is_indexed_it_is_indexed_again(tmp_path: Path) -> None:
    there = Scripted(tmp_path, [{"failed": []}, {"failed": []}])
    put(there, "a.md", b"one")
    inner = there._index

    async def replaced(job: dict[str, Any]) -> dict[str, Any]:
        if not there.jobs:
            await there.put("default", "a.md", pieces(b"two"))
        return await inner(job)

    there._index = replaced  # type: ignore[method-assign]
    work(there)
    assert len(there.jobs) == 2
    assert [r.status for r in there.all_of("default")] == ["ready"]


def test_a_busy_index_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.server.documents._RETRY_SEC", 0.01)
    there = Scripted(tmp_path, [{"error": "StoreBusy", "message": "locked"}, {"failed": []}])
    put(there, "a.md", b"text")
    work(there)
    assert len(there.jobs) == 2
    assert [r.status for r in there.all_of("default")] == ["ready"]


def test_an_ingest_that_cannot_be_done_fails_with_its_reason(tmp_path: Path) -> None:
    there = Scripted(tmp_path, [{"error": "BundleError", "message": "no bundle"}])
    put(there, "a.md", b"text")
    work(there)
    assert [(r.status, r.message) for r in there.all_of("default")] == [("failed", "no bundle")]
