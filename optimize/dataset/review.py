"""Examples that wait for a person's word: lines of JSONL with `"review": "pending"`, then "keep" or "drop"."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import DatasetError
from edge.files import write_atomic


@dataclass(slots=True)
class Reviewed:
    """The rows of one file, in order; `write` replaces the file."""

    path: Path
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path, *, missing: bool = False) -> Reviewed:
        """The rows of a file; with `missing` none where there is no file.

        :raises DatasetError: it cannot be read, or a line is no object: names it.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            if missing:
                return cls(path, [])
            raise DatasetError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read as text: {error}") from None
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DatasetError(f"{path}:{number}: not an object; name a file of examples (.jsonl)")
            rows.append(row)
        return cls(path, rows)

    @property
    def pending(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row.get("review", "keep") not in ("keep", "drop")]

    def edit(self, row: dict[str, Any], answer: str | None) -> None:
        """Set the answer; None: the passages hold none. Which passage holds it is found anew."""
        row["answer"] = answer.strip() if answer is not None else None
        row.pop("support", None)
        row.pop("unanswerable", None)
        if answer is None:
            row["unanswerable"] = True

    def shown(self, row: dict[str, Any]) -> str:
        """The example as a person reads it."""
        context = row.get("context") or []
        passages = [context] if isinstance(context, str) else context
        lines = []
        for marker, passage in enumerate(passages, 1):
            heading, text = ("", passage) if isinstance(passage, str) else (passage.get("heading"), passage.get("text"))
            lines.append(textwrap.shorten(f"[{marker}] {heading or ''} {text}", 600, placeholder=" …"))
        answer = "(the passages hold no answer)" if row.get("answer") is None else row["answer"]
        return "\n".join([*lines, f"Question: {row.get('question')}", f"Answer:   {answer}"])

    def write(self) -> None:
        """Replace the file, whole or not at all.

        :raises DatasetError: it cannot be written.
        """
        try:
            write_atomic(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be written: {error.strerror}") from None
