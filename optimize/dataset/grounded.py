"""Questions on single passages to prompts as retrieval makes them: several passages, near ones beside the right one.

A model that has only seen the right passage believes whatever passage it is shown. So each prompt gets chunks that a
search would bring with the right one, in the sizes and under the headings that an index gives them, and some questions
get prompts whose passages do not hold their answer.

Questions on the same passages share a prompt up to their last words, and the trainer reads that part once
(optimize/training/pack.py). So a prompt is made for a chunk, and all of the chunk's questions are asked of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.config import ChunkConfig
from edge.embed import Embedder
from edge.errors import DatasetError
from edge.ingest.chunk import chunk as chunks_of
from edge.ingest.chunk import embedding_text
from edge.prompt import heading_line_of
from edge.types import Chunk
from optimize.dataset.documents import document_of
from optimize.dataset.examples import Example, Shown
from optimize.dataset.rows import plain

NEAR = 6  # chunks that a search brings beside the right one, which a prompt draws from
RIGHT_FIRST = 0.85  # share of prompts whose first passage is the one that they were made for; else its place is drawn
ASKED_BESIDE = 0.15  # share of the other passages' questions that are asked too
"""As a search ranks: the right passage is mostly first, and a small model answers better when it may expect that."""


@dataclass(frozen=True)
class Shape:
    """What the prompts look like.

    :ivar passages: most passages of a prompt, as `answer.max_passages` of the configuration; fewer are shown too.
    :ivar rounds: prompts made for each chunk, each with other passages beside it.
    :ivar unanswerable: share of the questions of a prompt that its passages do not answer, 0..1.
    :ivar prompts: at most so many, drawn from all that there would be; 0 is all.
    """

    passages: int = 3
    rounds: int = 1
    unanswerable: float = 0.1
    prompts: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.passages < 1 or self.rounds < 1 or self.prompts < 0 or not 0 <= self.unanswerable < 1:
            raise ValueError(
                "passages and rounds must be 1 or more, prompts 0 or more, unanswerable from 0 to less than 1"
            )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk, and the questions whose answers it holds."""

    shown: Shown
    questions: list[Example]


def ground(
    examples: Sequence[Example],
    embedder: Embedder,
    chunk: ChunkConfig,
    shape: Shape,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """Prompts of several passages for examples of one passage each; the same for the same arguments.

    Examples that have no passage or no answer of their own are given back as they are.

    :raises DatasetError: no example has a passage that holds its answer.
    """
    pieces = _pieces([one for one in examples if one.passages and one.answers], embedder, chunk)
    if not any(piece.questions for piece in pieces):
        raise DatasetError("no example has a passage that holds its answer: see `edge optimize data check`")
    near = _near(pieces, embedder, on_progress)
    others = [one for one in examples if not (one.passages and one.answers)]
    prompts: list[list[Example]] = []
    for number in range(shape.rounds):
        rng = random.Random(f"{shape.seed}/{number}")
        prompts += [_prompt(at, pieces, near, shape, rng, number) for at, piece in enumerate(pieces) if piece.questions]
    if 0 < shape.prompts < len(prompts):
        prompts = random.Random(shape.seed).sample(prompts, shape.prompts)
    return [*others, *itertools.chain.from_iterable(prompts)]


def _pieces(examples: Sequence[Example], embedder: Embedder, config: ChunkConfig) -> list[_Piece]:
    """The chunks of all passages, as an ingest cuts them, each question with the first that holds its answer."""
    by_passage: dict[Shown, list[Example]] = defaultdict(list)
    for example in examples:
        by_passage[example.passages[(example.support or 1) - 1]].append(example)
        for passage in example.passages:
            by_passage.setdefault(passage, [])
    pieces: list[_Piece] = []
    for passage, questions in by_passage.items():
        made = [_Piece(shown, []) for shown in _cut(passage, embedder, config)]
        for question in questions:
            holding = [one for one in made if plain(question.answers[0]) in plain(one.shown.text)]
            if holding:
                _likeliest(question, holding).questions.append(question)
        pieces += made
    return pieces


def _cut(passage: Shown, embedder: Embedder, config: ChunkConfig) -> list[Shown]:
    document = document_of(passage)
    found = chunks_of(document, config, embedder.count_tokens)
    return [Shown(heading_line_of(document.title, one.headings), one.text) for one in found]


def _likeliest(question: Example, holding: Sequence[_Piece]) -> _Piece:
    """Of the chunks that hold the answer, the one that shares most words with the question."""
    asked = set(plain(question.question).split())
    return max(holding, key=lambda piece: len(asked & set(plain(piece.shown.text).split())))


def _near(
    pieces: Sequence[_Piece], embedder: Embedder, on_progress: Callable[[int, int], None] | None
) -> list[list[int]]:
    """For each chunk, the others that a search brings for its questions, those that come most often first."""
    texts = [embedding_text("", Chunk(0, 0, len(p.shown.text), p.shown.text, (p.shown.heading,), None)) for p in pieces]
    vectors = embedder.embed_documents(texts, on_progress)
    near: list[list[int]] = []
    for at, piece in enumerate(pieces):
        seen: Counter[int] = Counter()
        asked = [embedder.embed_query(question.question) for question in piece.questions] or [vectors[at]]
        for vector in asked:
            best = np.argsort(-(vectors @ vector), kind="stable")[: NEAR + 1]
            seen.update({int(other): NEAR + 1 - rank for rank, other in enumerate(best)})
        near.append([other for other, _ in seen.most_common(NEAR + 1) if other != at][:NEAR])
    return near


def _prompt(
    at: int, pieces: Sequence[_Piece], near: Sequence[Sequence[int]], shape: Shape, rng: random.Random, number: int
) -> list[Example]:
    """The questions of one prompt: those that its passages answer, and some that they do not."""
    count = rng.choice([*range(1, shape.passages + 1), shape.passages, shape.passages])
    beside = rng.sample(list(near[at]), min(count - 1, len(near[at])))
    places = [at, *beside]
    if rng.random() >= RIGHT_FIRST:
        rng.shuffle(places)
    shown = tuple(pieces[place].shown for place in places)
    found: list[Example] = []
    for marker, place in enumerate(places, 1):
        asked = [one for one in pieces[place].questions if place == at or rng.random() < ASKED_BESIDE]
        found += [_asked(one, shown, marker, f"{at}.{number}") for one in asked]
    text = plain(" ".join(one.text for one in shown))
    elsewhere = [
        one
        for place in near[at]
        if place not in places
        for one in pieces[place].questions
        if not any(plain(answer) in text for answer in one.answers)
    ]
    wanted = int(len(found) * shape.unanswerable / (1 - shape.unanswerable) + rng.random())  # its mean is the share
    for one in rng.sample(elsewhere, min(wanted, len(elsewhere))):
        found.append(_asked(dataclasses.replace(one, answers=()), shown, None, f"{at}.{number}"))
    return found


def _asked(example: Example, shown: tuple[Shown, ...], marker: int | None, prompt: str) -> Example:
    return dataclasses.replace(example, id=f"{example.id}@{prompt}", passages=shown, support=marker)
