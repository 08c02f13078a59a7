"""Feedback stays in a file of its own, can be rated, and is gone when it is deleted."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import apsw
import pytest

from edge import feedback
from edge.answer import ABSTENTION, NO_STATS, Answer
from edge.errors import StoreCorrupt, StoreError, StoreMismatch, StoreMissing, UsageError
from edge.feedback import Seen
from edge.store.feedback import FeedbackTable
from edge.types import Chunk, Hit, Passage, Prompt

HITS = tuple(
    Hit(n, f"/d/{n}.md", f"Manual {n}", "md", "en", Chunk(0, 0, 9, f"text {n}", ("Reset",)), 0.5, 0.5, 0.5)
    for n in (1, 2, 3, 4)
)
ANSWER = Answer(
    text="Ten seconds.", sentences=(), citations=(), abstained=False, quoted=False, generated="Ten", hits=HITS,
    prompt=Prompt("...", (1,), (Passage(1, HITS[1]), Passage(2, HITS[0])), ()), dropped=(), stats=NO_STATS,
    retrieve_sec=0.0, rss_peak_bytes=0,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "feedback.db"


def record(path: Path, answer: Answer = ANSWER) -> int:
    return feedback.record(path, "How long?", answer, "b" * 64, max_passages=3)


def test_what_the_model_was_shown_is_kept_as_it_was_shown(path: Path) -> None:
    id = record(path)
    (row,) = feedback.read(path)
    assert (row.id, row.question, row.answer, row.bundle) == (id, "How long?", "Ten seconds.", "b" * 64)
    assert row.passages == (
        Seen(1, "/d/2.md", "Manual 2 > Reset", "text 2"), Seen(2, "/d/1.md", "Manual 1 > Reset", "text 1"),
    )  # fmt: skip
    assert (row.thumb, row.correction, row.rated, row.abstained) == (None, None, None, False)
    assert row.asked.endswith("+00:00")


def test_an_abstention_before_the_model_keeps_the_hits(path: Path) -> None:
    record(path, dataclasses.replace(ANSWER, prompt=None, abstained=True, text=ABSTENTION))
    (row,) = feedback.read(path)
    assert row.abstained
    assert [seen.document for seen in row.passages] == ["/d/1.md", "/d/2.md", "/d/3.md"]


def test_only_its_owner_can_read_the_file(path: Path) -> None:
    record(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rating_can_be_replaced(path: Path) -> None:
    id = record(path)
    feedback.rate(path, id, "down", "  Twelve seconds ")
    (row,) = feedback.read(path, rated=True)
    assert (row.thumb, row.correction) == ("down", "Twelve seconds") and row.rated
    feedback.rate(path, id, "up")
    (row,) = feedback.read(path)
    assert (row.thumb, row.correction) == ("up", None)
    feedback.rate(path, id, "down", "")
    assert feedback.read(path)[0].correction == ""


def test_mistakes_in_rating(path: Path) -> None:
    with pytest.raises(StoreMissing, match="no feedback is kept here yet"):
        feedback.rate(path, 1, "up")
    id = record(path)
    with pytest.raises(UsageError, match=f"no feedback has the id {id + 1}"):
        feedback.rate(path, id + 1, "up")
    with pytest.raises(UsageError, match="give --thumb down"):
        feedback.rate(path, id, "up", "other")
    with pytest.raises(UsageError, match="must not be empty"):
        feedback.add(path, " ", "answer", "up")


def test_rows_come_back_in_order_and_the_last_few_of_them(path: Path) -> None:
    ids = [record(path), feedback.add(path, "Own?", "Yes\udcff", "up"), record(path)]
    assert [row.id for row in feedback.read(path)] == ids
    assert [row.id for row in feedback.read(path, limit=2)] == ids[1:]
    (own,) = feedback.read(path, rated=True)
    assert (own.answer, own.passages, own.bundle) == ("Yes?", (), None)


def test_deleted_text_is_gone_from_the_files_and_ids_are_not_given_again(path: Path) -> None:
    secret = dataclasses.replace(ANSWER, text="Sesame-open-thyself " * 50)
    first, second = record(path), record(path, secret)
    assert feedback.delete(path, [second, 99]) == 1
    assert b"Sesame" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert record(path) > second
    assert feedback.delete(path, None) == 2
    assert feedback.read(path) == [] and first > 0


def test_a_file_that_is_none_or_newer_or_damaged(path: Path) -> None:
    path.parent.mkdir()
    with apsw.Connection(str(path)) as other:
        other.execute("CREATE TABLE notes (a)")
    with pytest.raises(StoreMismatch, match="none of feedback"):
        record(path)
    path.unlink()
    record(path)
    with apsw.Connection(str(path)) as newer:
        newer.execute("INSERT INTO migrations VALUES (99, 'new', 'today')")
    with pytest.raises(StoreMismatch, match="newer version"):
        feedback.read(path)
    for file in path.parent.iterdir():
        file.unlink()
    path.write_bytes(b"no database " * 400)
    with pytest.raises(StoreCorrupt, match="move it away"):
        record(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept"):
        record(tmp_path / "file" / "feedback.db")


def test_a_failed_first_step_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.store import feedback as table

    monkeypatch.setattr(table, "STEPS", {1: ("feedback", table.STEPS[1][1] + "; broken;")})
    with pytest.raises(StoreError):
        FeedbackTable(path, create=True)
    monkeypatch.undo()
    assert record(path) == 1
