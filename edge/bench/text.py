"""Prompts of an exact number of tokens, cut from real text, drawn with a seed, no two of them beginning alike.

A prefix cache can therefore give nothing to a suite that does not measure it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import UsageError

Encode = Callable[[str], list[int]]

_SHARED_TOKENS = 4  # that two prompts may have in common at their start
_CHARACTERS_PER_TOKEN = 12  # more than any text needs on average
_CHARACTERS_OF_A_TOKEN = 4  # about what English needs
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt. `token_ids` has the length asked for; `text` has at most that many tokens, for peers that take text."""

    token_ids: tuple[int, ...]
    text: str


class TextPool:
    """Real text to cut prompts from.

    :param text: at least a few times as long as the longest prompt.
    :param seed: the same seed, text and tokenizer give the same prompts in the same order.
    """

    def __init__(self, text: str, encode: Encode, seed: int) -> None:
        self._text, self._encode = text, encode
        self._random = random.Random(seed)
        self._starts = [match.end() for match in re.finditer(r"\n\s*\n|(?<=[.!?])\s+", text)]
        self._used: list[tuple[int, ...]] = []
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()

    def draw(self, tokens: int) -> Sample:
        """A prompt that begins unlike every other that was drawn.

        :raises UsageError: the text is too short for it.
        """
        room = len(self._text) - tokens * _CHARACTERS_PER_TOKEN
        starts = [start for start in self._starts if start <= max(room, 0)] or [0]
        for _ in range(_TRIES):
            start = self._random.choice(starts)
            piece = self._text[start : start + tokens * _CHARACTERS_PER_TOKEN]
            ids = tuple(self._encode(piece)[:tokens])
            if len(ids) == tokens and self._is_new(ids):
                self._used.append(ids[: _SHARED_TOKENS + 1])
                return Sample(ids, self._fitting(piece, tokens))
        raise UsageError(
            f"the text gives no more prompts of {tokens} tokens that begin differently: name a longer one with --text, "
            "or ask for fewer repetitions or shorter prompts"
        )

    def unread(self, tokens: int) -> str:
        """Text of about so many tokens that was not tokenized yet, from anywhere: for timing the tokenizer."""
        length = tokens * _CHARACTERS_OF_A_TOKEN
        start = self._random.randrange(max(1, len(self._text) - length))
        return self._text[start : start + length]

    def _is_new(self, ids: tuple[int, ...]) -> bool:
        head = ids[: _SHARED_TOKENS + 1]
        return head not in self._used

    def _fitting(self, piece: str, tokens: int) -> str:
        """As many words of `piece` as make at most `tokens` tokens."""
        ends = [match.end() for match in re.finditer(r"\S+", piece)]
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._encode(piece[: ends[middle - 1]])) <= tokens:
                low = middle
            else:
                high = middle - 1
        return piece[: ends[low - 1]] if low else piece[:1]


def read_text(path: Path | None) -> str:
    """The text that prompts are cut from: a file, the .txt and .md files of a folder, or Python's language reference.

    :raises UsageError: there is no text; says what to do.
    """
    if path is None:
        return _language_reference()
    files = sorted([*path.rglob("*.txt"), *path.rglob("*.md")]) if path.is_dir() else [path]
    try:
        text = "\n\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    except OSError as error:
        raise UsageError(f"--text {path}: cannot be read: {error.strerror or error}") from None
    if not text.strip():
        raise UsageError(f"--text {path}: no text there (.txt and .md files are read)")
    return text


def _language_reference() -> str:
    """Half a megabyte of English prose and code, which is wherever Python is: the topics of its `help()`."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UsageError("this Python comes without its reference texts: name a text with --text FILE") from None
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return re.sub(r"[*=~^-]{4,}", "", text)  # underlines of headings are no text
