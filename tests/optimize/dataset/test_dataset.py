"""Reading training data: every kind of file, and every kind of mistake by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.errors import DatasetError
from edge.prompt import NO_ANSWER
from optimize import dataset
from optimize.dataset.examples import Example, Shown, sample


def write(folder: Path, name: str, content: str | list[Any]) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(text, encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {"question": "How heavy?", "context": "It weighs 480 grams.", "answer": "480 grams"} | changes


def read_one(folder: Path, **changes: Any) -> Example:
    (example,) = dataset.read(write(folder, "one.jsonl", [row(**changes)]))
    return example


def test_a_line_with_one_text_as_context(tmp_path: Path) -> None:
    example = read_one(tmp_path, document="sheet", id=7)
    assert example == Example(
        "7", "sheet", "How heavy?", (Shown("", "It weighs 480 grams."),), ("480 grams",), 1,
        origin=f"{tmp_path / 'one.jsonl'}:1",
    )  # fmt: skip
    assert sample(example).completion == "480 grams [1]"


def test_the_passage_that_holds_the_answer_supports_it(tmp_path: Path) -> None:
    context = [{"heading": "A", "text": "Nothing."}, {"heading": "B", "text": "It weighs 480\nGRAMS."}]
    assert read_one(tmp_path, context=context).support == 2
    assert read_one(tmp_path, context=context, support=1).support == 1
    assert read_one(tmp_path, context=context, answer=["about half a kilo"]).support is None
    assert read_one(tmp_path, answer=["half a kilo", "480 g"]).support == 1  # there is but one passage


def test_a_question_without_answer_learns_to_say_so(tmp_path: Path) -> None:
    for empty in (None, "", [], " "):
        example = read_one(tmp_path, answer=empty, unanswerable=True)
        assert (example.answers, example.support) == ((), None)
        assert sample(example).completion == NO_ANSWER


def test_a_conversation(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"), ("assistant", "So.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (example,) = dataset.read(write(tmp_path, "chat.jsonl", [{"messages": messages}]))
    assert [(turn.role, turn.content) for turn in example.turns] == turns[:-1]
    assert (example.question, example.answers) == ("Why?", ("So.",))
    assert sample(example).completion == "So."


def test_lines_of_one_passage_are_of_one_document_where_none_is_named(tmp_path: Path) -> None:
    rows = [row(), row(question="How light?"), row(context="Other 480 grams."), {"question": "Q", "answer": "A"}]
    names = [example.document for example in dataset.read(write(tmp_path, "a.jsonl", rows))]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_reviewed_lines(tmp_path: Path) -> None:
    rows = [row(id="a", review="keep"), row(id="b", review="drop")]
    assert [example.id for example in dataset.read(write(tmp_path, "a.jsonl", rows))] == ["a"]
    path = write(tmp_path, "b.jsonl", [row(), row(review="pending")])
    with pytest.raises(DatasetError, match=r"b\.jsonl:2: not reviewed .*edge optimize data review"):
        dataset.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, '"question" is missing or empty'),
        ({"answer": ""}, 'say "unanswerable": true'),
        ({"answer": "\ud83d"}, "holds half of a character, \\ud83d"),
        ({"answer": 3}, '"answer" must be a text'),
        ({"answer": "x", "unanswerable": True}, '"unanswerable" is true and there is an answer'),
        ({"answer": None, "unanswerable": "yes"}, '"unanswerable" must be true or false'),
        ({"answer": None, "unanswerable": True, "context": None}, "needs the context"),
        ({"context": 5}, '"context" must be a text or a list'),
        ({"context": [{"heading": "h"}]}, 'passage 1 of "context" needs a "text"'),
        ({"support": 2}, '"support" must be the number of a passage, 1 to 1'),
        ({"document": ["a"]}, '"document" must be a text'),
        ({"id": 1.5}, '"id" must be'),
        ({"synthetic": "no"}, '"synthetic" must be'),
        ({"messages": []}, '"messages" must be a list'),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}, "message 2 needs a role"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "needs a content"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "the last two messages"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, "a.jsonl", [row(), row(**changes)])
    with pytest.raises(DatasetError) as caught:
        dataset.read(path)
    assert f"{path}:2: " in str(caught.value)
    assert message in str(caught.value)


def test_all_malformed_lines_are_named_up_to_ten(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps(row()) + "\n\n" + "{broken\n" * 11 + "[1]\n")
    with pytest.raises(DatasetError) as caught:
        dataset.read(path)
    shown = str(caught.value)
    assert "12 malformed" in shown and "and 2 more" in shown
    assert [f"{path}:{number}: not JSON" in shown for number in (3, 12, 13)] == [True, True, False]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row(context="480 grams\u2028and more"), ensure_ascii=False), encoding="utf-8")
    assert len(dataset.read(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b" \n\n", "is empty"),
        ("a.jsonl", b'{"question": "\xff"}', r"not UTF-8 text \(byte 14\): convert it"),
        ("a.txt", b"x", "unknown kind of file '.txt': give"),
        ("a.json", b'{"question": "q"}', "not in SQuAD format"),
        ("a.json", b"{}\n{}", "name the file .jsonl"),
        ("a.json", b'{"data": []}', "holds no examples"),
        ("a.csv", b"frage,antwort\na,b\n", "a.csv:1: the first line must name the columns"),
        ("a.csv", b"question,answer\n", "holds no examples"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_do(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        dataset.read(tmp_path / name)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        dataset.read(tmp_path / "none.jsonl")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DatasetError, match="is a folder"):
        dataset.read(tmp_path / "folder.csv")


def squad(*questions: dict[str, Any], title: str = "Super_Bowl_50") -> str:
    return json.dumps({"data": [{"title": title, "paragraphs": [{"context": "It is red.", "qas": list(questions)}]}]})


def test_squad_of_both_versions(tmp_path: Path) -> None:
    old = {"id": "x", "question": "Colour?", "answers": [{"text": "red", "answer_start": 6}, {"text": "red"}]}
    none = {"id": 9, "question": "Size?", "answers": [], "is_impossible": True}
    first, second = dataset.read(write(tmp_path, "a.json", squad(old, none)))
    assert (first.id, first.document, first.answers, first.support) == ("x", "Super Bowl 50", ("red",), 1)
    assert first.passages == (Shown("Super Bowl 50", "It is red."),)
    assert (second.id, second.answers) == ("9", ())


def test_a_malformed_question_of_squad_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", squad({"id": 1, "question": "Colour?", "answers": []}))
    with pytest.raises(DatasetError, match=r"a\.json:data\[0\]\.paragraphs\[0\]\.qas\[0\]: no answer"):
        dataset.read(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    lines = [
        ("Question", "Context", "Answer", "Unanswerable", "heading"),
        ("Q1", '"It\nis red."', "red", "", "H"),
        ("Q2", "Nothing.", "", "yes", ""),
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(line) for line in lines) + "\r\n"
    first, second = dataset.read(write(tmp_path, "a.csv", text))
    assert (first.answers, first.passages) == (("red",), (Shown("H", "It\nis red."),))
    assert second.answers == () and second.origin.endswith(":4")


def test_malformed_lines_of_csv(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "question,answer,unanswerable\nq,a,\nq,a\nq,,maybe\n")
    with pytest.raises(DatasetError) as caught:
        dataset.read(path)
    assert "a.csv:3: 2 columns, and the first line names 3" in str(caught.value)
    assert "a.csv:4: unanswerable is 'maybe'" in str(caught.value)


def test_an_id_stands_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [row(id="x"), row(id="x")])
    with pytest.raises(DatasetError, match=r":2: the id 'x' stands at .*:1 too"):
        dataset.read(path)
    other = write(tmp_path, "b.jsonl", [row(id="y")])
    with pytest.raises(DatasetError, match="have the same id 'y'"):
        dataset.read_all([other, other])
