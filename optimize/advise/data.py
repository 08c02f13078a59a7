"""Questions to a held-out set, and to training examples with the prompts that `edge ask` would build for them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.engine.base import Message
from edge.errors import DatasetError
from edge.prompt import build, heading_line
from edge.types import Hit
from optimize.dataset.examples import Example, Shown
from optimize.dataset.rows import id_of, line_of, plain, words
from optimize.dataset.splits import Split, split

if TYPE_CHECKING:
    from edge.box import Box

UNANSWERABLE = 0.1  # share of the training questions that are also shown passages without their answer


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a model is tuned on: each question with passages, and the same alone."""

    examples: tuple[Example, ...]
    unfound: tuple[str, ...]  # ids of questions whose answer stands in none of the passages that a search finds


class _Unlimited:
    """For packing passages by their number alone."""

    def render(self, messages: Sequence[Message]) -> str:
        return ""

    def encode(self, text: str) -> list[int]:
        return []


def read(path: Path) -> list[Example]:
    """Questions of a JSONL file: "question", "answer" (a text, several, or null where the documents have none),
    "document" (the name of the file that answers it) and "id".

    :raises DatasetError: there is none, or lines are malformed; names them.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    found: dict[str, Example] = {}
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            example = _example(json.loads(line), f"{path}:{number}")
            if example.id in found:
                raise ValueError(f'the id "{example.id}" stands on a line before')
            found[example.id] = example
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise DatasetError(f"{path}:\n  " + "\n  ".join(wrong[:10]) + more)
    if not found:
        raise DatasetError(f"{path} holds no questions")
    return list(found.values())


def _example(row: object, place: str) -> Example:
    if not isinstance(row, dict):
        raise ValueError('not an object; it should hold "question" and "answer"')
    question, given = words(row, "question"), row.get("answer")
    answers = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers) or "answer" not in row:
        raise ValueError('"answer" must be a text, a list of texts, or null where the documents hold none')
    document = row.get("document")
    if document is not None and not isinstance(document, str):
        raise ValueError('"document" must be the name of a file')
    id = id_of(row.get("id"), place.rpartition(":")[2])
    kept = tuple(dict.fromkeys(text.strip() for text in answers if text.strip()))
    return Example(id, document or f"question-{id}", question, (), kept, origin=place)


def divide(examples: Sequence[Example], held_out: float, seed: int) -> Split:
    """Training and held-out questions, by document; at least one answerable question on each side.

    :raises DatasetError: they cannot be divided so.
    """
    made = split(examples, held_out=held_out, seed=seed)
    for side, name in ((made.train, "train on"), (made.held_out, "ask")):
        if not any(example.answers for example in side):
            raise DatasetError(
                f"of the questions to {name}, none has an answer: add questions on more documents, or name each one's "
                'document in the key "document"'
            )
    return made


def prompts(examples: Sequence[Example], box: Box, seed: int) -> Prompts:
    """Each question as `edge ask` would put it to the model, with its answer; some without the passage that holds it;
    and each alone, so that a model tuned on them can be asked without documents."""
    rng = random.Random(seed)
    made: list[Example] = []
    unfound: list[str] = []
    for example in examples:
        if not example.answers:
            continue
        made.append(_like(example, (), example.answers, None, "alone"))
        hits = box.retrieve(example.question)
        right = next((hit for hit in hits if _answers(hit, example)), None)
        if right is None:
            unfound.append(example.id)
            continue
        shown = _shown(example.question, hits, box)
        if right not in shown:
            shown = [*shown[:-1], right]
        made.append(_like(example, _passages(shown), example.answers, shown.index(right) + 1, "shown"))
        others = [hit for hit in hits if not _answers(hit, example)]
        if others and rng.random() < UNANSWERABLE:
            made.append(_like(example, _passages(_shown(example.question, others, box)), (), None, "without"))
    if not any(example.passages for example in made):
        raise DatasetError(
            "no answer of the questions to train on stands word for word in the documents: check that the answers are "
            "quoted from them, and that the questions belong to them"
        )
    return Prompts(tuple(made), tuple(unfound))


def write(path: Path, examples: Sequence[Example]) -> None:
    """As a file that a recipe's `finetune.data` names."""
    from edge.files import write_atomic

    write_atomic(path, "".join(line_of(example) + "\n" for example in examples))


def _answers(hit: Hit, example: Example) -> bool:
    text = plain(hit.chunk.text)
    return any(plain(answer) in text for answer in example.answers)


def _shown(question: str, hits: Sequence[Hit], box: Box) -> list[Hit]:
    most = box.config.answer.max_passages
    packed = build(question, hits, _Unlimited(), budget_tokens=1, max_passages=most)
    return [passage.hit for passage in packed.passages]


def _passages(hits: Sequence[Hit]) -> tuple[Shown, ...]:
    return tuple(Shown(heading_line(hit), hit.chunk.text) for hit in hits)


def _like(
    example: Example, passages: tuple[Shown, ...], answers: tuple[str, ...], support: int | None, kind: str
) -> Example:
    id = f"{example.id}@{kind}"
    return Example(id, example.document, example.question, passages, answers, support, origin=example.origin)
