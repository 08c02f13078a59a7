"""Training examples of rated answers (`edge feedback`): right ones as they are, wrong ones as they were corrected."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import feedback
from edge.errors import DatasetError
from edge.feedback import Feedback, Seen
from optimize.dataset.review import Reviewed
from optimize.dataset.rows import plain

_MARKER = re.compile(r"\s*\[\d+\]")


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of the rated rows."""

    added: int
    known: int  # stood in the file with the same rating
    without_correction: int  # rated down, and nobody said what is right


def collect(path: Path, out: Path, *, accept: bool = False) -> Collected:
    """Add the rated rows of `path` to `out`, to be reviewed; what was decided there stays decided.

    A row that was rated anew since is pending again. Rows that were deleted from the feedback stay in `out`.

    :param path: the feedback file, or what `edge feedback export` wrote.
    :param accept: the ratings are the review.
    :raises DatasetError: there is no rated row, or a file cannot be read or written.
    :raises StoreError: the feedback cannot be read.
    """
    rated = [row for row in _read(path) if row.thumb is not None]
    if not rated:
        raise DatasetError(f"{path}: no answer is rated yet; rate some with `edge feedback rate ID up|down`")
    reviewed = Reviewed.read(out, missing=True)
    by_id = {row.get("id"): at for at, row in enumerate(reviewed.rows)}
    added = known = without = 0
    for row in rated:
        example = _example(row, "keep" if accept else "pending")
        if example is None:
            without += 1
            continue
        at = by_id.get(example["id"])
        if at is not None and reviewed.rows[at].get("rated") == example["rated"]:
            known += 1
            if accept and reviewed.rows[at].get("review") == "pending":
                reviewed.rows[at]["review"] = "keep"
        elif at is not None:
            reviewed.rows[at] = example
            added += 1
        else:
            reviewed.rows.append(example)
            added += 1
    reviewed.write()
    return Collected(added, known, without)


def _read(path: Path) -> list[Feedback]:
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return feedback.read(path, rated=True)
    found = []
    for number, row in enumerate(Reviewed.read(path).rows, 1):
        try:
            passages = tuple(Seen(**passage) for passage in row["passages"])
            found.append(Feedback(**{**row, "passages": passages}))
        except (TypeError, KeyError) as error:
            raise DatasetError(f"{path}: row {number} is none that `edge feedback export` wrote: {error}") from None
    return found


def _example(row: Feedback, review: str) -> dict[str, Any] | None:
    """A line for `dataset.read`, or None where nobody knows what is right."""
    if row.thumb == "down" and row.correction is None:
        return None
    said = row.correction if row.correction is not None else "" if row.abstained else row.answer
    answer = _MARKER.sub("", said).strip()
    if not answer and not row.passages:
        return None  # nothing was shown, so there was nothing to refuse from
    example: dict[str, Any] = {
        "id": f"feedback-{row.bundle[:8] if row.bundle else 'own'}-{row.id}",
        "document": _document(row, answer),
        "question": row.question,
        "context": [{"heading": seen.heading, "text": seen.text} for seen in row.passages],
        "answer": answer or None,
    }
    if answer and row.support and row.thumb == "up":
        example["support"] = row.support  # the answer may be in other words than its passage's
    return example | ({} if answer else {"unanswerable": True}) | {"rated": row.rated, "review": review}


def _document(row: Feedback, answer: str) -> str:
    """The document that the answer is from, else the best hit's, else the question stands for itself."""
    if answer and row.support and row.thumb == "up":
        return next(seen.document for seen in row.passages if seen.marker == row.support)
    holding = [seen.document for seen in row.passages if answer and plain(answer) in plain(seen.text)]
    documents = [*holding, *(seen.document for seen in row.passages)]
    return documents[0] if documents else f"question: {row.question}"
