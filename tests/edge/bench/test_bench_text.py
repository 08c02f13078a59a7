"""Prompts: exact in length, unlike each other from the start, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.bench.text import TextPool, read_text
from edge.errors import UsageError

WORDS = [f"word{number}" for number in range(4000)]
TEXT = ". ".join(" ".join(WORDS[start : start + 20]) for start in range(0, len(WORDS), 20))


def encode(text: str) -> list[int]:
    """A token a word."""
    return [int(word.strip(".")[4:] or 0) for word in text.split() if word.startswith("word")]


def test_prompts_have_the_length_asked_for() -> None:
    pool = TextPool(TEXT, encode, seed=0)
    for tokens in (1, 7, 64, 300):
        sample = pool.draw(tokens)
        assert len(sample.token_ids) == tokens
        assert len(encode(sample.text)) == tokens
        assert tuple(encode(sample.text)) == sample.token_ids


def test_no_two_prompts_begin_alike() -> None:
    pool = TextPool(TEXT, encode, seed=0)
    heads = [pool.draw(32).token_ids[:5] for _ in range(60)]
    assert len(set(heads)) == 60


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> list[tuple[int, ...]]:
        pool = TextPool(TEXT, encode, seed)
        return [pool.draw(20).token_ids for _ in range(5)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert TextPool(TEXT, encode, 1).sha256 == TextPool(TEXT, encode, 2).sha256 != TextPool("x", encode, 1).sha256


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(UsageError, match="name a longer one with --text"):
        TextPool("word1 word2. word3 word4", encode, 0).draw(50)
    pool = TextPool("word1 word2. word3 word4", encode, 0)
    pool.draw(2)
    with pytest.raises(UsageError, match="fewer repetitions"):
        for _ in range(5):
            pool.draw(2)


def test_text_for_the_tokenizer_is_about_as_long_as_asked() -> None:
    assert len(TextPool(TEXT, encode, 0).unread(100)) == 400
    assert TextPool("short", encode, 0).unread(100) == "short"


def test_the_default_text_is_long_enough_for_a_run() -> None:
    assert len(read_text(None)) > 300_000


def test_text_from_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.md").write_text("two")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    assert read_text(tmp_path) == "one\n\ntwo"
    assert read_text(tmp_path / "a.txt") == "one"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no text there"):
        read_text(tmp_path / "empty")
    with pytest.raises(UsageError, match="cannot be read"):
        read_text(tmp_path / "none.txt")
