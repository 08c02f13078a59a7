"""What a model is tuned on: questions with the passages of their prompts, as `edge ask` shows them to the model.

The prompt and the two forms that an answer takes (with the marker of its passage, or saying that there is none) are
those of edge.prompt: training and serving see the same text.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.engine.base import Message
from edge.prompt import NO_ANSWER, closed_book_messages, grounded_messages


@dataclass(frozen=True, slots=True)
class Shown:
    """A passage as a prompt shows it; its marker is its place, from 1."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A question and what should be answered."""

    id: str
    document: str  # that the question is about: sets are split by it, never by question
    question: str
    passages: tuple[Shown, ...]  # best first; none: asked without documents
    answers: tuple[str, ...]  # all accepted, the first is trained on; none: the passages do not hold the answer
    support: int | None = None  # marker of the passage that holds the answer
    synthetic: bool = False  # made by a program, not asked by a person
    origin: str = ""  # file and line, for messages
    turns: tuple[Message, ...] = ()  # a whole conversation up to the answer, in place of question and passages


@dataclass(frozen=True, slots=True)
class Sample:
    """What a trainer sees: the loss is taken on the completion alone."""

    id: str
    document: str
    prompt: tuple[Message, ...]
    completion: str


def sample(example: Example) -> Sample:
    """The prompt that `edge ask` would send for this example, and the answer in the form that it understands."""
    if example.turns:
        prompt = list(example.turns)
    elif example.passages:
        shown = [(marker, one.heading, one.text) for marker, one in enumerate(example.passages, 1)]
        prompt = grounded_messages(example.question, shown)
    else:
        prompt = closed_book_messages(example.question)
    return Sample(example.id, example.document, tuple(prompt), completion(example))


def completion(example: Example) -> str:
    """The answer to learn: "text [marker]", the text alone where nothing is cited, or that there is none."""
    if not example.answers:
        return NO_ANSWER
    return f"{example.answers[0]} [{example.support}]" if example.support else example.answers[0]
