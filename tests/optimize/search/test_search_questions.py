"""Validation and test share no document, and every side can be asked."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.engine.base import Message
from edge.errors import DatasetError, UsageError
from optimize.dataset.examples import Example, Shown
from optimize.search.questions import divide, trained_on


def example(number: int, document: str, answer: str | None = "yes") -> Example:
    passage = (Shown("", f"Passage {number} of {document}."),)
    return Example(str(number), document, f"Question {number}?", passage, (answer,) if answer else ())


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.floats(0.1, 0.9), st.integers(0, 5))
def test_sides_share_no_document_and_lose_no_question(documents: list[str], share: float, seed: int) -> None:
    examples = [example(number, document) for number, document in enumerate(documents)]
    if len(set(documents)) < 2:
        with pytest.raises(DatasetError, match="two documents"):
            divide(examples, examples, None, share=share, seed=seed)
        return
    made = divide(examples, examples, None, share=share, seed=seed)
    assert not {one.document for one in made.validation} & {one.document for one in made.test}
    assert sorted([*made.validation, *made.test], key=lambda one: int(one.id)) == examples
    assert made == divide(examples, examples, None, share=share, seed=seed)
    assert set(made.passages) == set(examples)


def test_only_held_out_questions_are_asked_and_everything_is_searched() -> None:
    examples = [example(number, "abcd"[number % 4]) for number in range(12)]
    held_out = [one for one in examples if one.document in "cd"]
    made = divide(examples, held_out, None, share=0.5, seed=0)
    assert {one.document for one in (*made.validation, *made.test)} == {"c", "d"}
    assert len(made.passages) == 12
    described = made.described()
    assert described["validation"]["questions"] == described["validation"]["answerable"] == 3
    assert len(described["test"]["documents"]) == 1 and len(described["test"]["sha256"]) == 64


def test_questions_of_their_own_to_confirm_with() -> None:
    ours, theirs = [example(1, "a"), example(2, "b")], [example(3, "c")]
    made = divide(ours, ours, theirs, share=0.5, seed=0)
    assert made.validation == tuple(ours) and made.test == tuple(theirs)
    assert set(made.passages) == {*ours, *theirs}
    with pytest.raises(UsageError, match="1 documents are in both"):
        divide(ours, ours, [example(9, "b")], share=0.5, seed=0)


def test_a_limit_draws_the_same_questions_each_time() -> None:
    examples = [example(number, "abcdef"[number % 6]) for number in range(60)]
    made = divide(examples, examples, None, share=0.5, seed=1, limit=5)
    assert len(made.validation) == len(made.test) == 5
    assert made == divide(examples, examples, None, share=0.5, seed=1, limit=5)
    assert len(made.passages) == 60


def test_sides_without_an_answer_and_what_cannot_be_asked_are_refused() -> None:
    with pytest.raises(DatasetError, match="to confirm with that has an answer"):
        divide([], [example(1, "a")], [example(2, "b", None)], share=0.5, seed=0)
    talk = dataclasses.replace(example(1, "a"), turns=(Message("user", "Hello"),))
    with pytest.raises(DatasetError, match="to choose by that has an answer"):
        divide([], [talk, dataclasses.replace(example(2, "a"), passages=())], [example(3, "b")], share=0.5, seed=0)


def test_what_was_trained_on_is_named() -> None:
    assert trained_on([example(1, "b"), example(2, "a"), example(3, "c")], ["a", "b", "x"]) == ["a", "b"]
