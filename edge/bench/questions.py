"""Questions for the suites that need documents: the user's own, or sentences drawn from the index."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from edge.errors import UsageError
from edge.sentences import sentences
from edge.store.chunks import Store

_WORDS = (6, 40)  # of a sentence that may stand for a question


def questions(store: Store, count: int, rng: random.Random, file: Path | None) -> list[str]:
    """As many questions as there are, up to `count`, all different.

    :raises UsageError: there are fewer than two.
    """
    found = _read(file) if file is not None else _sentences(store, rng, count)
    rng.shuffle(found)
    if len(found) < 2:
        raise UsageError(
            f"{file or store.path} gives {len(found)} questions and at least 2 are needed: ingest more documents, or "
            'name a file of {"question": ...} lines as rag.questions_file'
        )
    return found[:count]


def _sentences(store: Store, rng: random.Random, count: int) -> list[str]:
    """Sentences of documents drawn at random: real text that the index holds an answer to."""
    sources = sorted(store.known())
    drawn = rng.sample(sources, min(len(sources), 4 * count))
    of_each = math.ceil(4 * count / max(len(drawn), 1))
    found: dict[str, None] = {}
    for source in drawn:
        document = store.document(source)
        if document is not None:
            spans = [" ".join(document.text[start:end].split()) for start, end in sentences(document.text)]
            fitting = [text for text in spans if _WORDS[0] <= len(text.split()) <= _WORDS[1]]
            found |= dict.fromkeys(rng.sample(fitting, min(len(fitting), of_each)))
    return list(found)


def _read(file: Path) -> list[str]:
    found: dict[str, None] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as text: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found[" ".join(json.loads(line)["question"].split())] = None
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UsageError(f'{file}, line {number}: each line is an object with a "question"') from None
    return [question for question in found if question]
