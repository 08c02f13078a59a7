"""Questions read, divided, and made into the prompts that `edge ask` would build."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.errors import DatasetError
from edge.types import Chunk, Hit
from optimize.advise.data import divide, prompts, read, write
from optimize.dataset import read as read_examples
from optimize.dataset.examples import Example, completion


def hit(number: int, text: str) -> Hit:
    chunk = Chunk(number, 0, len(text), text, (), None)
    return Hit(number, f"/d/{number}.txt", f"Document {number}", "txt", "en", chunk, 0.5, 0.5, 0.5)


TEXTS = ("The pump is red.", "The valve weighs 3 kg.", "The relay is loud.", "The fuse is a slow-blow fuse.")


class FakeBox:
    """A search that always brings the same passages, in this order."""

    config: Any = SimpleNamespace(answer=SimpleNamespace(max_passages=2))

    def retrieve(self, question: str) -> list[Hit]:
        return [hit(number, text) for number, text in enumerate(TEXTS)]


def question(id: str, asked: str, *answers: str) -> Example:
    return Example(id, id, asked, (), answers)


def made(*examples: Example) -> Any:
    return prompts(examples, FakeBox(), 0)  # type: ignore[arg-type]


def test_a_question_is_shown_what_a_search_brings_and_cites_the_passage_that_answers_it() -> None:
    found = made(question("a", "What colour is the pump?", "red"))
    shown = next(one for one in found.examples if one.passages)
    assert [passage.text for passage in shown.passages] == list(TEXTS[:2])
    assert shown.passages[0].heading == "Document 0"
    assert completion(shown) == "red [1]"
    alone = next(one for one in found.examples if not one.passages)
    assert completion(alone) == "red" and not found.unfound


def test_an_answer_further_down_takes_the_last_place_and_one_nowhere_is_told() -> None:
    found = made(question("a", "Which fuse?", "slow-blow fuse"), question("b", "How long?", "40 metres"))
    shown = next(one for one in found.examples if one.passages and one.answers)
    assert [passage.text for passage in shown.passages] == [TEXTS[0], TEXTS[3]]
    assert shown.support == 2
    assert found.unfound == ("b",)
    assert any(one.id == "b@alone" for one in found.examples)


def test_some_questions_are_shown_passages_without_their_answer() -> None:
    asked = [question(str(n), f"What colour is pump {n}?", "red") for n in range(200)]
    without = [one for one in made(*asked).examples if not one.answers]
    assert 5 <= len(without) <= 40
    assert all("red" not in passage.text for one in without for passage in one.passages)


def test_answers_that_stand_nowhere_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="quoted from them"):
        made(question("a", "How long?", "40 metres"))


def test_what_is_trained_on_is_a_file_that_a_recipe_reads(tmp_path: Path) -> None:
    found = made(question("a", "What colour is the pump?", "red"))
    write(tmp_path / "train.jsonl", found.examples)
    again = read_examples(tmp_path / "train.jsonl")
    assert [(one.question, one.passages, one.answers, one.support) for one in again] == [
        (one.question, one.passages, one.answers, one.support) for one in found.examples
    ]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_questions_are_read_with_one_answer_several_or_none(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "q.jsonl",
        {"id": "a", "question": "Who?", "answer": "Tesla", "document": "t.md", "evidence": "ignored"},
        {"question": "When?", "answer": ["1856", "in 1856"]},
        "",
        {"question": "Why?", "answer": None},
    )
    one, two, none = read(path)
    assert (one.id, one.document, one.answers) == ("a", "t.md", ("Tesla",))
    assert two.answers == ("1856", "in 1856") and none.answers == ()
    assert len({two.document, none.document}) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2"),
        ("[1]", "not an object"),
        ({"answer": "x"}, '"question" is missing'),
        ({"question": "x"}, '"answer" must be'),
        ({"question": "x", "answer": 3}, '"answer" must be'),
        ({"question": "x", "answer": "y", "document": 3}, '"document" must be'),
        ({"id": "a", "question": "x", "answer": "y"}, 'the id "a" stands'),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = lines(tmp_path / "q.jsonl", {"id": "a", "question": "Who?", "answer": "Tesla"}, row)
    with pytest.raises(DatasetError, match=message) as caught:
        read(path)
    assert "line 2" in str(caught.value)


def test_no_questions_and_no_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no questions"):
        read(lines(tmp_path / "q.jsonl", ""))
    with pytest.raises(DatasetError, match="cannot be read"):
        read(tmp_path / "none.jsonl")


def test_both_sides_need_a_question_with_an_answer() -> None:
    answered = [question(str(n), f"Q{n}?", "x") for n in range(20)]
    made = divide(answered, 0.3, 0)
    assert made.train and made.held_out
    held = {one.document for one in made.held_out}
    emptied = [one if one.document not in held else question(one.id, one.question) for one in answered]
    with pytest.raises(DatasetError, match="of the questions to ask, none has an answer"):
        divide(emptied, 0.3, 0)
