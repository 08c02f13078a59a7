"""The four arms, each asked through `edge ask --batch` as any user would, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edge.errors import BuildError
from edge.files import write_atomic
from optimize import child, scores
from optimize.dataset.examples import Example

Name = Literal["base", "rag", "tuned", "both"]
NAMES: tuple[Name, ...] = ("base", "rag", "tuned", "both")
"""From the one that takes least to keep up to the one that takes most."""
TITLES = {"base": "neither", "rag": "RAG", "tuned": "fine-tuned", "both": "fine-tuned + RAG"}
LEAST = 8  # questions asked, whatever the time


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer."""

    name: Name
    bundle: Path
    mode: Literal["rag", "model"]


@dataclass(frozen=True, slots=True)
class Row:
    """One question's answer in one arm."""

    id: str
    answerable: bool
    text: str
    f1: float  # of an abstention: 1 where there is no answer, else 0
    em: float
    abstained: bool
    grounded: bool  # every sentence rests on a cited span
    seconds: float  # of the whole question, the model being loaded
    rss_peak_bytes: int  # of all processes, so far


def ask(
    arm: Arm,
    questions: Sequence[Example],
    index: Path,
    work: Path,
    config: Path | None = None,
    limit_sec: float | None = None,
) -> list[Row]:
    """Put the questions to an arm, one after the other, for as long as `limit_sec` (at least LEAST of them).

    The first is asked twice, since its first answer includes the loading of the model.

    :raises BuildError: `edge ask` failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    batch, log = work / f"{arm.name}.questions.jsonl", work / f"{arm.name}.log"
    asked = [questions[0], *questions]
    write_atomic(batch, "".join(json.dumps({"id": one.id, "question": one.question}) + "\n" for one in asked))
    command = [
        sys.executable, "-m", "edge", "ask", "--batch", str(batch), "--mode", arm.mode, "--bundle", str(arm.bundle),
        "--index", str(index), *(["--config", str(config)] if config else []),
    ]  # fmt: skip
    rows: list[Row] = []
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stream, text=True
        ) as process,
    ):
        try:
            is_whole = _follow(process, questions, rows.append, limit_sec)
        finally:
            process.terminate()
    if not is_whole:
        raise child.failure(f"Asking {TITLES[arm.name]}", log, process.returncode)
    write_atomic(work / f"{arm.name}.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows


def _follow(
    process: subprocess.Popen[str], questions: Sequence[Example], keep: Callable[[Row], None], limit_sec: float | None
) -> bool:
    """Read answers until all are there or the time is up; whether that is so."""
    assert process.stdout is not None  # a pipe was asked for
    json.loads(process.stdout.readline() or "{}")  # the first question's first answer
    began = before = time.monotonic()
    for number, example in enumerate(questions):
        if limit_sec is not None and number >= LEAST and before - began > limit_sec:
            return True
        line = process.stdout.readline()
        if not line:
            return False
        now = time.monotonic()
        keep(row(example, json.loads(line), now - before))
        before = now
    return True


def row(example: Example, answer: dict[str, Any], seconds: float) -> Row:
    """What one line of `edge ask --batch` is worth.

    :raises BuildError: the question failed.
    """
    if "error" in answer:
        raise BuildError(f"question {example.id} cannot be asked: {answer['error']}")
    text = "" if answer["abstained"] else answer["answer"]
    return Row(
        id=example.id,
        answerable=bool(example.answers),
        text=text,
        f1=scores.f1(text, example.answers),
        em=scores.exact(text, example.answers),
        abstained=answer["abstained"],
        grounded=bool(answer["citations"]) and not answer["unsupported"],
        seconds=seconds,
        rss_peak_bytes=answer["rss_peak_bytes"],
    )
