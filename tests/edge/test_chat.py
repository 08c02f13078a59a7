"""Follow-up questions: a rewrite is taken only where it helps and invents nothing."""

from __future__ import annotations

import pytest

from edge.chat import Turn, stand_alone
from edge.types import Chunk, Hit
from tests.edge.scripted import Scripted

HISTORY = [Turn("When does the gateway make its backup?", "Every Sunday at 02:30.")]


def relevance_by_word(**words: float):  # type: ignore[no-untyped-def]
    """A retriever whose best hit is as relevant as the best of the known words in the question."""

    def retrieve(question: str) -> list[Hit]:
        known = [score for word, score in words.items() if word in question.lower()]
        chunk = Chunk(0, 0, 1, "x")
        return [Hit(1, "/x", "", "txt", "en", chunk, 0, 0, 0, 0, max(known, default=0.0))]

    return retrieve


def test_the_first_question_stands_as_it_is() -> None:
    engine = Scripted("never asked")
    assert stand_alone("How many?", [], engine=engine, retrieve=relevance_by_word()) == "How many?"
    assert engine.limits == []


def test_a_good_rewrite_is_taken() -> None:
    engine = Scripted("How many backups does the gateway keep?")
    found = stand_alone("How many does it keep?", HISTORY, engine=engine, retrieve=relevance_by_word(backups=0.9))
    assert found == "How many backups does the gateway keep?"


@pytest.mark.parametrize("reply", ["How many moons does Jupiter keep?", "", "Every Sunday at 02:30."])
def test_a_rewrite_that_invents_or_forgets_is_not_taken(reply: str) -> None:
    found = stand_alone(
        "How many does it keep?", HISTORY, engine=Scripted(reply), retrieve=relevance_by_word(backup=0.9, jupiter=1.0)
    )
    assert found == "How many does it keep? When does the gateway make its backup?"


def test_a_question_that_needs_no_history_stays() -> None:
    found = stand_alone(
        "Which kind of fuse is F1?", HISTORY, engine=Scripted("Which fuse is F1?"), retrieve=relevance_by_word(fuse=0.9)
    )
    assert found == "Which kind of fuse is F1?"
