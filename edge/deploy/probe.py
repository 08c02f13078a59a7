"""The probe: questions that a bundle has to answer on the box before it serves there, and within which bounds.

`probe.yaml` in an archive holds them; without it one question is asked, and any answer will do.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.sizes import parse_size


@dataclass(frozen=True)
class ProbeQuestion:
    question: str
    contains: tuple[str, ...] = ()  # one of these must be in the answer, in upper or lower case; none: any answer

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("a question is empty")


@dataclass(frozen=True)
class Probe:
    """The questions go to the model alone: what a box has in its index is the box's own."""

    questions: tuple[ProbeQuestion, ...] = (ProbeQuestion("What is the capital of France?"),)
    max_tokens: int = 24  # of an answer
    load_sec: float = 300.0  # until the model is loaded, once it is prepared for this CPU
    answer_sec: float = 60.0  # for each answer
    memory: str | int | None = None  # "256MiB", the most private memory; None: the box's own budget

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("questions are missing")
        if min(self.max_tokens, self.load_sec, self.answer_sec) <= 0:
            raise ValueError("max_tokens, load_sec and answer_sec must be more than 0")
        if self.memory is not None:
            parse_size(self.memory)
