"""One line of training data to an example, and all that can be wrong with it (pure).

What a line may say stands at `optimize.dataset.read`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.engine.base import Message
from optimize.dataset.examples import Example, Shown

KEYS = '"question" and "answer" (and "context", "document", "id"), or "messages"'
_ROLES = ("system", "user", "assistant")


class Malformed(ValueError):
    """One row is wrong; the message says how."""


def mapping(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Malformed):
        raise row
    if not isinstance(row, dict):
        raise Malformed(f"not an object; it should hold {KEYS}")
    return row


def example_of(row: Mapping[str, Any], place: str, path: Path) -> Example | None:
    """What a line of JSONL or CSV says; None where its reviewer has dropped it.

    :raises Malformed: it is none.
    """
    review = row.get("review", "keep")
    if review == "drop":
        return None
    if review != "keep":
        raise Malformed(
            f'not reviewed ("review": {json.dumps(review)}): run `edge optimize data review {path}`, or write "keep" '
            'or "drop" there'
        )
    id = id_of(row.get("id"), f"{path.stem}:{place.rpartition(':')[2]}")
    synthetic = row.get("synthetic", False)
    if not isinstance(synthetic, bool):
        raise Malformed('"synthetic" must be true or false')
    if "messages" in row:
        return _conversation(row, id, place, synthetic)
    question = words(row, "question")
    passages = _passages(row.get("context"))
    answers = _answers(row, bool(passages))
    document = row.get("document")
    if document is not None and (not isinstance(document, str | int) or not str(document).strip()):
        raise Malformed('"document" must be a text')
    support = _support(passages, answers, row.get("support"))
    return Example(
        id=id,
        document=str(document).strip() if document is not None else name_of(question, passages, support),
        question=question,
        passages=passages,
        answers=answers,
        support=support,
        synthetic=synthetic,
        origin=place,
    )


def line_of(example: Example) -> str:
    """The line of JSONL that gives this example again."""
    row: dict[str, Any] = {"id": example.id, "document": example.document}
    if example.synthetic:
        row["synthetic"] = True
    if example.turns:
        answer = Message("assistant", example.answers[0])
        row["messages"] = [{"role": turn.role, "content": turn.content} for turn in (*example.turns, answer)]
        return json.dumps(row, ensure_ascii=False)
    row["question"] = example.question
    row["context"] = [{"heading": one.heading, "text": one.text} for one in example.passages]
    row |= {"answer": list(example.answers)} if example.answers else {"answer": None, "unanswerable": True}
    if example.support:
        row["support"] = example.support
    return json.dumps(row, ensure_ascii=False)


def _conversation(row: Mapping[str, Any], id: str, place: str, synthetic: bool) -> Example:
    messages = row["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise Malformed('"messages" must be a list of at least a question and its answer')
    turns: list[Message] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise Malformed(f"message {number} needs a role: {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise Malformed(f"message {number} needs a content that is not empty")
        turns.append(Message(message["role"], message["content"].strip()))
    if turns[-1].role != "assistant" or turns[-2].role != "user":
        raise Malformed("the last two messages must be the user's and the assistant's")
    document = row.get("document")
    asked = next(turn.content for turn in turns if turn.role == "user")
    return Example(
        id=id,
        document=str(document) if document else f"conversation-{_digest(asked)}",
        question=turns[-2].content,
        passages=(),
        answers=(turns[-1].content,),
        synthetic=synthetic,
        origin=place,
        turns=tuple(turns[:-1]),
    )


def id_of(value: Any, otherwise: str) -> str:
    if value is None or value == "":
        return otherwise
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Malformed('"id" must be a text or a whole number')
    return str(value)


def words(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f'"{key}" is missing or empty; a line should hold {KEYS}')
    return value.strip()


def _passages(context: Any) -> tuple[Shown, ...]:
    if context is None or context == "" or context == []:
        return ()
    if isinstance(context, str):
        context = [context]
    if not isinstance(context, list):
        raise Malformed('"context" must be a text or a list of {"heading", "text"}')
    found: list[Shown] = []
    for number, item in enumerate(context, 1):
        one = {"text": item} if isinstance(item, str) else item
        heading = one.get("heading") or "" if isinstance(one, dict) else None
        if not isinstance(heading, str) or not isinstance(one.get("text"), str) or not one["text"].strip():
            raise Malformed(f'passage {number} of "context" needs a "text" (and may have a "heading")')
        found.append(Shown(heading.strip(), one["text"].strip()))
    return tuple(found)


def _answers(row: Mapping[str, Any], has_context: bool) -> tuple[str, ...]:
    none = row.get("unanswerable", False)
    if not isinstance(none, bool):
        raise Malformed('"unanswerable" must be true or false')
    given = row.get("answer")
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(text, str) for text in listed):
        raise Malformed('"answer" must be a text, a list of texts, or null')
    answers = tuple(dict.fromkeys(text.strip() for text in listed if text.strip()))
    if none and answers:
        raise Malformed('"unanswerable" is true and there is an answer')
    if not none and not answers:
        raise Malformed('"answer" is missing or empty; where the context holds none, say "unanswerable": true')
    if none and not has_context:
        raise Malformed('"unanswerable" needs the context that does not hold the answer')
    return answers


def _support(passages: Sequence[Shown], answers: Sequence[str], given: Any = None) -> int | None:
    """The marker of the passage that holds the answer: as given, else the first that holds its words."""
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= len(passages) or not answers:
            raise Malformed(f'"support" must be the number of a passage, 1 to {len(passages)}, of an answer')
        return given
    for answer in answers:
        for marker, passage in enumerate(passages, 1):
            if plain(answer) in plain(passage.text):
                return marker
    # An answer in other words than its passage's: of several passages, nobody can tell which it is from.
    return 1 if answers and len(passages) == 1 else None


def plain(text: str) -> str:
    """Text as answers are compared by: case folded, white space as single spaces."""
    return " ".join(text.split()).casefold()


def name_of(question: str, passages: Sequence[Shown], support: int | None) -> str:
    """A name for the document of a line that has none: lines of the same passage get the same."""
    if not passages:
        return f"question-{_digest(plain(question))}"
    return f"passage-{_digest(plain(passages[(support or 1) - 1].text))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def place_of(example: Example) -> str:
    """Where a person finds the example."""
    return example.origin or example.id
