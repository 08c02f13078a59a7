"""Lines of extracted text: which of their ends mean something.

A line end is "soft" where it is only there because the line was full (wrapped prose). Elsewhere it means something:
in lists, logs, verse.
"""

from __future__ import annotations

import itertools
import re

_END = re.compile(r"""[.!?:;…。！？]["'”’»)\]]*\s*$""")
_ITEM = re.compile(r"\s*(?:[-*+•–]\s|\(?\d{1,3}[.)]\s|#|\||>)")
_FULL = 0.6  # share of the longest line from which a line counts as full
_LEAST = 40  # characters: where no line is longer than this, every line end means something


def soft_ends(lines: list[str]) -> list[bool]:
    """For each line but the last: whether the text runs on in the next line."""
    longest = max((len(line) for line in lines), default=0)
    if longest < _LEAST:
        return [False] * (len(lines) - 1)
    return [
        len(line) >= _FULL * longest
        and not _END.search(line[-8:])
        and bool(following.strip())
        and not _ITEM.match(following)
        for line, following in itertools.pairwise(lines)
    ]


def joined_lines(text: str) -> list[str]:
    """Paragraphs of a page: wrapped lines joined by a space, a paragraph where a sentence ends on a short line."""
    paragraphs: list[str] = []
    for part in re.split(r"\n[^\S\n]*\n", text):
        lines = [line.strip() for line in part.split("\n") if line.strip()]
        longest = max((len(line) for line in lines), default=0)
        current: list[str] = []
        for line, soft in zip(lines, [*soft_ends(lines), False], strict=False):
            current.append(line)
            full = len(line) >= _FULL * longest
            if soft or (full and len(line) >= _LEAST):
                current.append(" ")
            elif _END.search(line[-8:]):
                paragraphs.append("".join(current))
                current = []
            else:
                current.append("\n")
        if current:
            paragraphs.append("".join(current).strip())
    return paragraphs


def without_soft_ends(text: str) -> str:
    """The text with its soft line ends as spaces; of the same length, so that offsets stay."""
    lines = text.split("\n")
    ends = [" " if soft else "\n" for soft in soft_ends(lines)]
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(lines, ends, fillvalue="")))
