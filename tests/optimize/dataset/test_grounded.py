"""Prompts of several passages for questions on one: the right passage keeps its marker, near ones stand beside it."""

from __future__ import annotations

import itertools
import json
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge.config import ChunkConfig
from edge.errors import DatasetError
from optimize.dataset.examples import Example, Shown, completion
from optimize.dataset.grounded import Shape, ground
from optimize.dataset.rows import example_of, line_of, plain

TOPICS = ("pump", "valve", "filter", "sensor", "relay", "gateway", "cable", "fuse")
CHUNK = ChunkConfig(64, 16)


class WordEmbedder:
    """Near is what shares words."""

    dim, max_tokens = 64, 64

    def embed_query(self, text: str) -> np.ndarray:
        vector = np.zeros(self.dim, np.float32)
        for word in text.lower().split():
            vector[zlib.crc32(word.strip("?.").encode()) % self.dim] += 1
        return vector / np.linalg.norm(vector)

    def embed_documents(self, texts: Sequence[str], on_progress: object = None) -> np.ndarray:
        return np.stack([self.embed_query(text) for text in texts])

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 2


def example(topic: str, number: int) -> Example:
    text = f"The {topic} of line {number} is made in {topic.title()}ville. It weighs {number * 3 + 7} grams."
    question = f"How much does the {topic} of line {number} weigh?"
    return Example(f"{topic}-{number}", topic, question, (Shown(topic, text),), (f"{number * 3 + 7} grams",), 1)


EXAMPLES = [example(topic, number) for topic, number in itertools.product(TOPICS, range(4))]


def made(**settings: object) -> list[Example]:
    return ground(EXAMPLES, WordEmbedder(), CHUNK, Shape(**settings))  # type: ignore[arg-type]


def test_an_answer_stands_in_the_passage_of_its_marker() -> None:
    answered = [one for one in made(rounds=3) if one.answers]
    assert {one.question for one in answered} == {one.question for one in EXAMPLES}
    for one in answered:
        assert one.support is not None
        assert plain(one.answers[0]) in plain(one.passages[one.support - 1].text)
        assert completion(one) == f"{one.answers[0]} [{one.support}]"
    assert {one.support for one in answered} == {1, 2, 3}  # a model must not learn a place


def test_what_is_unanswerable_is_not_answered_by_any_passage() -> None:
    found = made(rounds=3, unanswerable=0.25)
    refused = [one for one in found if not one.answers]
    assert 0.15 < len(refused) / len(found) <= 0.3
    golds = {one.question: one.answers[0] for one in EXAMPLES}
    for one in refused:
        assert one.support is None
        assert all(plain(golds[one.question]) not in plain(passage.text) for passage in one.passages)
    assert all(one.answers for one in made(unanswerable=0.0))


def test_questions_share_their_prompt_and_prompts_differ_in_size() -> None:
    prompts = defaultdict(list)
    for one in made(rounds=2):
        prompts[one.passages].append(one)
    assert {len(passages) for passages in prompts} == {1, 2, 3}
    assert max(map(len, prompts.values())) > 2
    assert all(len(set(passages)) == len(passages) for passages in prompts)


def test_the_same_again_and_another_with_another_seed() -> None:
    assert made(seed=3) == made(seed=3) != made(seed=4)
    ids = [one.id for one in made(rounds=2)]
    assert len(set(ids)) == len(ids)


def test_examples_of_another_kind_are_left_as_they_are() -> None:
    closed = Example("c", "c", "Who are you?", (), ("A gateway.",))
    refused = Example("r", "r", "How high is it?", (Shown("", "It is red."),), ())
    found = ground([closed, refused, *EXAMPLES], WordEmbedder(), CHUNK, Shape())
    assert found[:2] == [closed, refused]
    with pytest.raises(DatasetError, match="no example has a passage"):
        ground([closed], WordEmbedder(), CHUNK, Shape())


def test_a_line_gives_the_example_again() -> None:
    for one in made(rounds=1):
        again = example_of(json.loads(line_of(one)), one.origin, Path("x.jsonl"))
        assert again == one


@pytest.mark.parametrize("wrong", [{"passages": 0}, {"rounds": 0}, {"unanswerable": 1.0}])
def test_a_shape_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Shape(**wrong)  # type: ignore[arg-type]
