"""Errors of SQLite become errors of this program at one seam, and what fails changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from edge.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from edge.store import connect
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Searcher
from edge.store.upkeep import problems, status

# Errors in this program's own use of SQLite: no advice can be given, the text of SQLite is shown.
OURS = {
    "SQLError", "MisuseError", "MismatchError", "ConstraintError", "RangeError", "InternalError", "NotFoundError",
    "EmptyError", "ThreadingViolationError", "ForkingViolationError", "IncompleteExecutionError", "BindingsError",
    "ExecutionCompleteError", "ConnectionNotClosedError", "ConnectionClosedError", "CursorClosedError",
    "VFSNotImplementedError", "VFSFileClosedError", "ExecTraceAbort", "ExtensionLoadingError", "InvalidContextError",
    "NoFTS5Error",
}  # fmt: skip


def errors_of_apsw() -> list[type[apsw.Error]]:
    found = [value for value in vars(apsw).values() if isinstance(value, type) and issubclass(value, apsw.Error)]
    return [value for value in found if value is not apsw.Error]


@pytest.mark.parametrize("kind", errors_of_apsw(), ids=lambda kind: kind.__name__)
def test_no_error_of_apsw_is_unmapped(kind: type[apsw.Error]) -> None:
    assert kind in connect.ERRORS or kind.__name__ in OURS
    with pytest.raises(StoreError, match="index") as caught, connect.translated(Path("index.db")):
        raise kind("reason")
    assert "reason" in str(caught.value)
    if kind in connect.ERRORS:
        assert type(caught.value) is connect.ERRORS[kind][0]


def test_a_full_disk_changes_nothing(kit: Any) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "the first text " * 50))
        pages = store.connection.execute("PRAGMA page_count").get
        store.connection.execute(f"PRAGMA max_page_count = {pages + 3}").get  # noqa: B018  .get fetches
        before = store.known()
        with pytest.raises(StoreFull, match="nothing was changed"):
            kit.put(store, kit.document("/d/b.txt", os.urandom(200_000).hex()))
        assert store.known() == before
        assert problems(store) == []
        store.connection.execute("PRAGMA max_page_count = 100000").get  # noqa: B018
        kit.put(store, kit.document("/d/b.txt", "there is room again"))
        assert len(store.known()) == 2


@pytest.mark.parametrize("room", range(1, 40, 4))
def test_a_disk_that_fills_up_anywhere_is_said_so(kit: Any, room: int) -> None:
    """Wherever the limit strikes, in SQLite's own tables or in those of FTS5 and vec0."""
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "the first text " * 50))
        pages = store.connection.execute("PRAGMA page_count").get
        store.connection.execute(f"PRAGMA max_page_count = {pages + room}").get  # noqa: B018
        with pytest.raises(StoreFull):
            kit.put(store, kit.document("/d/b.txt", " ".join(f"word{n}" for n in range(20_000))))
        assert list(store.known()) == ["/d/a.txt"]
        assert problems(store) == []


def test_a_writer_waits_for_another(kit: Any) -> None:
    """A second process holds the lock for half a second; the first waits and gets through."""
    with kit.open() as store:
        holder = hold_lock(kit.path, 0.5)
        kit.put(store, kit.document("/d/a.txt", "content"))
        assert len(store.known()) == 1
        holder.communicate()


def test_a_writer_that_waits_too_long_says_so(kit: Any) -> None:
    with kit.open() as store:
        store.connection.set_busy_timeout(50)
        holder = hold_lock(kit.path, 30)
        try:
            with pytest.raises(StoreBusy, match="another process is writing"):
                kit.put(store, kit.document("/d/a.txt", "content"))
            assert store.known() == {}  # reading goes on
        finally:
            holder.kill()
            holder.communicate()


def hold_lock(path: Path, seconds: float) -> subprocess.Popen[str]:
    program = (
        "import apsw, sys, time\n"
        "connection = apsw.Connection(sys.argv[1])\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(path), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_a_reader_keeps_its_snapshot_while_another_writes(kit: Any) -> None:
    with kit.open() as writer, Store.open(kit.path) as reader:
        kit.put(writer, kit.document("/d/a.txt", "first content"))
        searcher = Searcher(reader)
        with searcher.snapshot():
            assert searcher.lexical(["first"], 5, Filter()) == [1]
            kit.put(writer, kit.document("/d/a.txt", "second content"))
            writer.remove(["/d/none.txt"])
            assert searcher.lexical(["first"], 5, Filter()) == [1]
            assert searcher.found([1])[1].chunk.text == "first content"
        assert searcher.lexical(["first"], 5, Filter()) == []


@pytest.mark.parametrize("offset", [100, 5000, 20_000, 60_000])
def test_damage_is_called_damage(kit: Any, offset: int) -> None:
    with kit.open() as store:
        for number in range(20):
            kit.put(store, kit.document(f"/d/{number}.txt", f"text {number} " * 200))
    with kit.path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xa5" * 40_000)
    try:
        with Store.open(kit.path) as store:
            assert problems(store) != []
    except StoreCorrupt as error:
        assert "ingest the documents again" in str(error)


def test_a_truncated_index_is_damaged(kit: Any) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "text " * 5000))
    with kit.path.open("r+b") as stream:
        stream.truncate(kit.path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt), Store.open(kit.path) as store:
        assert problems(store) == []


def test_a_read_only_folder_can_be_searched(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "some content"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with Store.open(kit.path) as store:
        assert status(store).documents == 1
        assert Searcher(store).lexical(["content"], 5, Filter()) == [1]
        with pytest.raises(StoreError, match="read-only"):
            kit.put(store, kit.document("/d/b.txt", "more"))
    assert [file.name for file in kit.path.parent.iterdir()] == ["index.db"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Store.open(tmp_path / "file" / "index.db", create=True, fingerprint="f", dim=4, chunker="c")
