"""Questions out of an index, or out of a file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edge.bench.questions import questions
from edge.errors import UsageError
from edge.store.chunks import Store
from edge.types import Block, Chunk, Document


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two documents of six sentences that may stand for questions, and two that may not."""
    made = Store.open(tmp_path / "index.db", create=True, fingerprint="f", dim=4, chunker="c")
    for number in range(2):
        names = ("north", "south", "east", "west", "upper", "lower")
        text = " ".join(f"The {name} valve of house {number} is closed by hand." for name in names) + " Too short. So."
        document = Document(f"/{number}.txt", "0" * 64, "txt", "", text, (Block(0, len(text)),), "en", "2026-01-01")
        made.replace(document, [Chunk(0, 0, len(text), text)], np.eye(1, 4, dtype=np.float32), [["valv"]])
    return made


def drawn(store: Store, count: int, seed: int = 0) -> list[str]:
    return questions(store, count, random.Random(seed), None)


def test_questions_are_whole_sentences_and_differ(store: Store) -> None:
    found = drawn(store, 12)
    assert len(set(found)) == 12
    assert all(text.startswith("The ") and text.endswith("by hand.") for text in found)
    assert len(drawn(store, 3)) == 3
    assert len(drawn(store, 100)) == 12


def test_the_seed_decides(store: Store) -> None:
    assert drawn(store, 5, 1) == drawn(store, 5, 1) != drawn(store, 5, 2)


def test_an_index_without_sentences(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "i.db", create=True, fingerprint="f", dim=4, chunker="c") as empty,
        pytest.raises(UsageError, match="ingest more documents"),
    ):
        drawn(empty, 3)


def test_questions_of_one_s_own(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": " Why? "}\n\n{"question": "Who?", "id": 3}\n{"question": "Who?"}\n')
    assert sorted(questions(store, 9, random.Random(0), file)) == ["Who?", "Why?"]
    for content, message in (
        ('{"question": "Why?"}', "at least 2"),
        ("[]\n", "line 1"),
        ('{"question": 3}', "line 1"),
        ("not json", "line 1"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=message):
            questions(store, 9, random.Random(0), file)
    with pytest.raises(UsageError, match="cannot be read"):
        questions(store, 9, random.Random(0), tmp_path / "none")
