"""Splits: by document, the same every time, and a change since is noticed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edge.errors import DatasetError, UsageError
from optimize.dataset import read_split, split, write_split
from optimize.dataset.examples import Example

SET = [Example(f"{d}-{q}", f"doc {d}", f"Question {q}?", (), ("answer",)) for d in range(40) for q in range(3)]


def documents(examples: tuple[Example, ...]) -> set[str]:
    return {example.document for example in examples}


def test_no_document_is_on_both_sides_and_the_share_is_about_kept() -> None:
    made = split(SET, held_out=0.25)
    assert not documents(made.train) & documents(made.held_out)
    assert len(made.train) + len(made.held_out) == len(SET)
    assert 4 <= len(documents(made.held_out)) <= 16


def test_a_document_stays_on_its_side_whatever_else_is_there() -> None:
    whole, part = split(SET, held_out=0.3, seed=5), split(list(reversed(SET[:60])), held_out=0.3, seed=5)
    assert documents(part.held_out) <= documents(whole.held_out)
    assert documents(split(SET, held_out=0.3, seed=6).held_out) != documents(whole.held_out)


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_each_side_gets_a_document(share: float) -> None:
    made = split(SET[:6], held_out=share)
    assert len(documents(made.train)) == len(documents(made.held_out)) == 1


def test_named_documents_are_held_out() -> None:
    made = split(SET, held_out=["doc 3", "doc 7"])
    assert documents(made.held_out) == {"doc 3", "doc 7"}
    with pytest.raises(DatasetError, match="no example is of these documents: doc 99"):
        split(SET, held_out=["doc 99"])
    with pytest.raises(DatasetError, match="all documents would stand on one side"):
        split(SET[:3] + SET[3:6], held_out=["doc 0", "doc 1"])


def test_what_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="3 examples of 1 document"):
        split(SET[:3])
    with pytest.raises(DatasetError, match="0 examples"):
        split([])
    for share in (0, 1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            split(SET, held_out=share)


def test_a_written_split_is_read_again(tmp_path: Path) -> None:
    made = split(SET, held_out=0.2, seed=3)
    write_split(tmp_path / "s.json", made)
    again = read_split(tmp_path / "s.json", list(reversed(SET)))
    assert again.digest == made.digest
    assert documents(again.held_out) == documents(made.held_out) and again.seed == 3


def test_any_change_of_the_contents_is_noticed(tmp_path: Path) -> None:
    made = split(SET, held_out=0.2)
    write_split(path := tmp_path / "s.json", made)
    held = next(at for at, one in enumerate(SET) if one in made.held_out)
    changed = list(SET)
    changed[held] = dataclasses.replace(SET[held], answers=("other",))
    with pytest.raises(DatasetError, match="the held-out examples changed"):
        read_split(path, changed)
    moved = [dataclasses.replace(one, origin="elsewhere:1") for one in SET]
    assert read_split(path, moved).digest == made.digest  # another file name is no other content
    with pytest.raises(DatasetError, match="changed since they were split"):
        read_split(path, [one for one in SET if one is not SET[held]])
    with pytest.raises(DatasetError, match="documents that are missing: doc 0"):
        read_split(path, SET[3:])
    with pytest.raises(DatasetError, match="documents that are new: new"):
        read_split(path, [*SET, dataclasses.replace(SET[0], id="n", document="new")])


def test_a_changed_or_broken_file_is_noticed(tmp_path: Path) -> None:
    write_split(path := tmp_path / "s.json", split(SET, held_out=0.2))
    content = json.loads(path.read_text())
    moved = content["train"]["documents"].pop()
    content["held_out"]["documents"].append(moved)
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="changed"):
        read_split(path, SET)
    for text in ("{", "[]", '{"schema": 1}'):
        path.write_text(text)
        with pytest.raises(DatasetError, match="is no split"):
            read_split(path, SET)
    path.write_text('{"schema": 99}')
    with pytest.raises(DatasetError, match="a split of schema 99"):
        read_split(path, SET)
    with pytest.raises(DatasetError, match="no such file"):
        read_split(tmp_path / "none.json", SET)
