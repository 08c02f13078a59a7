"""In which order passages are read by a model that can say that it found nothing, and what is reported of that."""

from __future__ import annotations

import dataclasses

import pytest

from edge.engine.base import Sampling
from edge.prompt import NO_ANSWER, build
from edge.reading import Reader, Reading, Tuning
from edge.types import Chunk, Hit, Passage, Prompt
from tests.edge.scripted import Scripted

QUESTION = "When was the cabinet door painted?"
TEXTS = (
    "The gateway has a reset button.",
    "The cabinet door has a red lock. It was painted in 1987.",
    "Fuses stand behind the cover.",
)


def hit(number: int, text: str, language: str = "en") -> Hit:
    return Hit(number, f"/{number}.txt", "", "txt", language, Chunk(0, 0, len(text), text), 0.5, 0.5, 0.5, 0.5, 0.9)


HITS = [hit(number, text) for number, text in enumerate(TEXTS, start=1)]


def read(*replies: str, hits: list[Hit] = HITS) -> tuple[Reading, Scripted]:
    engine = Scripted(*replies)
    prompt = build(QUESTION, hits, engine, budget_tokens=190, max_passages=2)
    engine.prompts.clear()
    reader = Reader(engine, Sampling(), None, lambda _: None, lambda _: None)
    return reader.read_closest_first(QUESTION, prompt, budget_tokens=190, special_tokens=()), engine


def of(prompt: Prompt) -> list[tuple[int, int]]:
    return [(passage.marker, passage.hit.chunk_id) for passage in prompt.passages]


def test_the_closest_passage_is_read_alone_where_it_answers() -> None:
    reading, engine = read("1987 [1]")
    assert of(reading.prompt) == [(1, 2)]
    assert reading.generated == "1987 [1]"
    assert len(engine.limits) == 1
    assert [(dropped.chunk_id, dropped.reason) for dropped in reading.prompt.dropped] == [(1, "unread"), (3, "limit")]


def test_all_are_read_where_it_does_not_and_the_closest_stays_first() -> None:
    reading, engine = read(NO_ANSWER, "1987 [1]")
    assert of(reading.prompt) == [(1, 2), (2, 1)]
    assert reading.generated == "1987 [1]"
    assert [dropped.reason for dropped in reading.prompt.dropped] == ["limit"]
    alone, both = dict.fromkeys(text for text in engine.prompts if "1987" in text)
    assert both.startswith(alone[: alone.index("\n\nQuestion:")])  # what was read of it need not be read again


def test_the_time_to_the_first_token_counts_from_the_first_reading() -> None:
    once, _ = read("1987 [1]")
    twice, _ = read(NO_ANSWER, "1987 [1]")
    words = len(NO_ANSWER.split())
    assert once.stats.ttft_sec == 0.1
    assert twice.stats.ttft_sec == pytest.approx(0.1 + (words - 1) / 10 + 0.1)


def test_one_passage_is_read_once() -> None:
    reading, engine = read(NO_ANSWER, "1987", hits=HITS[1:2])
    assert reading.generated == NO_ANSWER
    assert len(engine.limits) == 1


def test_without_any_word_of_the_question_all_are_read_at_once() -> None:
    others = [hit(1, "Fuses stand behind the cover."), hit(2, "The lamp blinks.")]
    reading, engine = read("red", hits=others)
    assert of(reading.prompt) == [(1, 1), (2, 2)]
    assert len(engine.limits) == 1


def test_a_tuning_covers_its_languages() -> None:
    english, german = Passage(1, HITS[0]), Passage(2, dataclasses.replace(HITS[0], language="de"))
    assert Tuning().covers([english, german])
    assert Tuning(("en", "de")).covers([english, german])
    assert not Tuning(("en",)).covers([english, german])
