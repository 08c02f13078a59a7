"""Questions, answers and thumbs, kept on this box alone, where the configuration asks for it (`feedback: enabled`).

A row holds what the model was shown too, so that `edge optimize data from-feedback` can make training examples of the
rated ones. Nothing of it leaves the box by itself; `edge feedback delete` removes it from the file as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge.errors import UsageError
from edge.files import home

if TYPE_CHECKING:
    from edge.answer import Answer

Thumb = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Seen:
    """A passage as the prompt showed it, or would have."""

    marker: int  # from 1
    document: str  # Document.source
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """One question with its answer, and what a person thought of it."""

    id: int
    asked: str  # ISO 8601, UTC
    question: str
    passages: tuple[Seen, ...]  # none: the model was not shown any
    answer: str
    support: int | None  # marker of the passage that the answer cites first
    abstained: bool
    bundle: str | None  # digest of the manifest; None where a person wrote the row
    thumb: Thumb | None  # None: not rated
    correction: str | None  # what it should have said; "": that the passages hold no answer
    rated: str | None  # ISO 8601, UTC


def default_path() -> Path:
    """The file in the home folder."""
    return home() / "feedback.db"


def record(path: Path, question: str, answer: Answer, bundle: str, *, max_passages: int) -> int:
    """Keep a question with what was shown and answered; returns the id under which it can be rated.

    Where the model was not asked, for nothing seemed relevant, the first `max_passages` hits are kept: if the answer
    was among them, that is worth learning.

    :param bundle: digest of the bundle's manifest.
    :raises StoreError: it cannot be written.
    """
    from edge.prompt import heading_line

    hits = [passage.hit for passage in answer.prompt.passages] if answer.prompt else answer.hits[:max_passages]
    seen = [Seen(marker, hit.document, heading_line(hit), hit.chunk.text) for marker, hit in enumerate(hits, 1)]
    return _insert(
        path,
        question=question,
        answer=answer.text,
        passages=json.dumps([asdict(one) for one in seen]),  # ASCII: file names may be no UTF-8
        support=answer.citations[0].marker if answer.citations else None,
        abstained=int(answer.abstained),
        bundle=bundle,
    )


def add(path: Path, question: str, answer: str, thumb: Thumb, correction: str | None = None) -> int:
    """Keep a question and answer that a person brings, rated, without passages; returns its id.

    :raises UsageError: the question or the answer is empty, or a right answer is corrected.
    :raises StoreError: it cannot be written.
    """
    if not question.strip() or not answer.strip():
        raise UsageError("the question and the answer must not be empty")
    correction = _checked(thumb, correction)
    return _insert(
        path,
        question=question.strip(),
        answer=answer.strip(),
        passages="[]",
        abstained=0,
        thumb=thumb,
        correction=correction,
        rated=_now(),
    )


def rate(path: Path, id: int, thumb: Thumb, correction: str | None = None) -> None:
    """Say what an answer was worth; a second rating replaces the first.

    :param correction: what it should have said; "" where the passages hold no answer.
    :raises UsageError: there is no such row, or a right answer is corrected.
    :raises StoreError: it cannot be written.
    """
    from edge.store.feedback import FeedbackTable

    correction = _checked(thumb, correction)
    with FeedbackTable(path) as table:
        if not table.rate(id, thumb, correction, _now()):
            raise UsageError(f"no feedback has the id {id}; `edge feedback list` shows those that there are")


def read(path: Path, *, rated: bool = False, limit: int | None = None) -> list[Feedback]:
    """What is kept, the oldest first.

    :param rated: only what has a thumb.
    :param limit: only the last so many.
    :raises StoreMissing: nothing was ever kept.
    :raises StoreError: it cannot be read.
    """
    from edge.store.feedback import FeedbackTable

    with FeedbackTable(path) as table:
        rows = table.rows(rated=rated, limit=limit)
    for row in rows:
        row["passages"] = tuple(Seen(**passage) for passage in json.loads(row["passages"]))
        row["abstained"] = bool(row["abstained"])
    return [Feedback(**row) for row in rows]


def delete(path: Path, ids: Sequence[int] | None) -> int:
    """Delete rows, or all of them for None, also from the file's free pages; returns how many there were.

    :raises StoreMissing: nothing was ever kept.
    :raises StoreError: it cannot be written.
    """
    from edge.store.feedback import FeedbackTable

    with FeedbackTable(path) as table:
        return table.delete(ids)


def _insert(path: Path, **values: str | int | None) -> int:
    from edge.store.feedback import FeedbackTable

    kept = {name: _utf8(value) if isinstance(value, str) else value for name, value in values.items()}
    with FeedbackTable(path, create=True) as table:
        return table.insert({"asked": _now(), **kept})


def _checked(thumb: Thumb, correction: str | None) -> str | None:
    if thumb == "up" and correction is not None:
        raise UsageError("an answer that needs a correction was not right: give --thumb down, or leave it out")
    return None if correction is None else _utf8(correction.strip())


def _utf8(text: str) -> str:
    """Broken bytes of a command line as question marks: SQLite takes none."""
    return text.encode("utf-8", "replace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
