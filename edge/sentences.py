"""Where sentences begin and end (pure), for citations, for overlap, and for whatever else must not cut one in half.

Rules rather than a model: they run on the box, in any language that ends sentences with . ! ? or 。！？. A line end
closes a sentence too, unless the line was merely full (see `edge.ingest.lines.soft_ends`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator

from edge.ingest.lines import soft_ends

_END = re.compile(r"""[.!?…]+["'”’»)\]]*\s+(?=["'“‘«(\[*_]*(?![a-zà-öø-ÿ])\w)|[。！？]+["”’」』]*\s*|\n""")
# Words whose full stop does not end a sentence, in the languages of the samples: at all, or where a number follows.
# Initials ("J. Smith") are told by their shape, German dates ("am 3. Mai") by the month.
_ABBREVIATIONS = frozenset(
    [
        *("dr", "mr", "mrs", "ms", "prof", "st", "vs", "eq", "approx", "ca", "bzw", "usw", "vgl", "inkl", "ggf"),
        *("f.eks", "e.g", "i.e", "z.b", "d.h", "u.a", "o.l", "jf", "dvs", "evt", "ref"),
    ]
)
_BEFORE_NUMBERS = frozenset(["no", "nr", "fig", "abs", "art", "tel", "bl", "vol", "pp", "p", "s", "kl", "sec"])
_MONTH = re.compile(r"(?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)")
_LAST_WORD = re.compile(r"[\w.]*\w$")


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans `(start, end)` of the sentences of `text`, in order, without the white space between them."""
    soft = soft_ends(text.split("\n"))
    spans: list[tuple[int, int]] = []
    start, line = 0, 0
    for match in _END.finditer(text):
        crossed = match.group().count("\n")
        wrapped = crossed == 1 and soft[line]
        line += crossed
        mark = match.group().rstrip()
        if wrapped and not mark:
            continue
        if mark == "." and (wrapped or not crossed) and _is_abbreviation(text, start, match):
            continue
        _append(spans, text, start, match.end())
        start = match.end()
    _append(spans, text, start, len(text))
    return spans


def neighbours(spans: Collection[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every sentence alone, then every two that follow each other: what evidence may consist of."""
    ordered = list(spans)
    yield from ((span,) for span in ordered)
    yield from itertools.pairwise(ordered)


def _is_abbreviation(text: str, start: int, end: re.Match[str]) -> bool:
    word = _LAST_WORD.search(text[max(start, end.start() - 24) : end.start()])
    if word is None:
        return False
    last, following = word.group(), text[end.end() : end.end() + 1]
    if last.isdigit():
        return len(last) <= 2 and _MONTH.match(text, end.end()) is not None
    if len(last) == 1 and last.isupper():
        return True
    return last.lower() in _ABBREVIATIONS or (last.lower() in _BEFORE_NUMBERS and following.isdigit())


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    if ink := text[start:end].strip():
        at = text.index(ink[0], start)
        spans.append((at, at + len(ink)))
