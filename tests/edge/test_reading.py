"""How a prompt is read: a model that goes round in circles, and one that is not sure that there is no answer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import pytest

from edge.engine.base import Sampling
from edge.prompt import NO_ANSWER
from edge.reading import Reader, Reading, Tuning
from edge.types import Chunk, Hit, Logprobs, Prompt, Token
from tests.edge.scripted import Scripted, ScriptedSession

PROMPT = Prompt("Who?", (1, 2), (), ())
OTHERS = ((7, " ", -0.8), (8, "Ada", -0.9), (9, "Bob", -2.0))


class Unsure(Scripted):
    """Says with a probability that there is no answer; goes on with "Lovelace [1]" where the answer begins with Ada."""

    def __init__(self, probability: float, others: tuple[tuple[int, str, float], ...] = OTHERS) -> None:
        super().__init__(NO_ANSWER)
        self.each = math.log(probability) / len(NO_ANSWER.split())
        self.others = others
        self.read: list[tuple[int, ...]] = []

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> ScriptedSession:
        self.read.append(tuple(token_ids))
        if token_ids[-1] == 8:
            return ScriptedSession(" Lovelace [1]", len(token_ids))
        session = super().start(token_ids, sampling, adapter=adapter)
        return session if sampling.logprobs is None else Told(self, session)


class Surely(Unsure):
    """Answers with two words of a probability, and would have begun as `NO_ANSWER` does with another."""

    def __init__(self, probability: float, none: float = 0.01) -> None:
        super().__init__(probability, others=((0, "The", math.log(none)),))
        self.replies, self.each = ("Ada Lovelace",), math.log(probability) / 2

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> ScriptedSession:
        session = super().start(token_ids, sampling, adapter=adapter)
        session.first = 1  # the id of its first word; 0 is that of `NO_ANSWER`
        return session


class Told(ScriptedSession):
    def __init__(self, engine: Unsure, session: ScriptedSession) -> None:
        self.engine, self._words, self.first, self.stats = engine, session._words, session.first, session.stats

    def __iter__(self) -> Iterator[Token]:
        for token in super().__iter__():
            own = (token.id, token.text, self.engine.each)
            yield dataclasses.replace(token, logprobs=Logprobs(self.engine.each, (own, *self.engine.others)))


def read(engine: Scripted, relevance: float = 0.5, floor: float = 0.0) -> Reading:
    reader = Reader(engine, Sampling(), None, lambda _: None, lambda _: None)
    return reader.read_or_abstain(PROMPT, relevance, floor=floor)


def test_no_answer_is_believed_where_it_is_more_likely_than_not() -> None:
    engine = Unsure(0.6)
    assert read(engine).generated == NO_ANSWER
    assert engine.read == [(1, 2), (1, 2)]


def test_else_the_best_other_word_begins_the_answer() -> None:
    engine = Unsure(0.4)
    found = read(engine)
    assert found.generated == "Ada Lovelace [1]"
    assert found.doubted
    assert engine.read == [(1, 2), (1, 2), (1, 2, 8)]  # not with white space


def test_without_another_word_it_stays() -> None:
    assert read(Unsure(0.4, others=((7, " ", -0.8),))).generated == NO_ANSWER


def test_an_answer_is_read_once() -> None:
    engine = Scripted("Ada Lovelace [1]")
    found = read(engine)
    assert found.generated == "Ada Lovelace [1]"
    assert not found.doubted
    assert len(engine.limits) == 1


@pytest.mark.parametrize(
    ("relevance", "probability", "none", "answered"),
    [
        (0.4, 0.1, 0.3, True),  # not doubtful: 0.3/0.7 * 0.6/0.4 < 1
        (0.4, 0.9, 0.45, False),  # 0.45/0.55 * 0.6/0.4 > 1
        (0.1, 0.95, 0.05, True),  # doubtful: 0.95/0.05 * 0.1/0.9 > 1
        (0.1, 0.8, 0.05, False),  # 0.8/0.2 * 0.1/0.9 < 1
        (0.1, 0.95, 0.15, False),
        (0.6, 0.1, 0.45, True),  # not even weighed
    ],
)  # fmt: skip
def test_an_answer_from_what_is_hardly_relevant_is_weighed(
    relevance: float, probability: float, none: float, answered: bool
) -> None:
    found = read(Surely(probability, none), relevance, floor=0.25)
    assert found.generated == ("Ada Lovelace" if answered else NO_ANSWER)


def test_the_search_outvotes_a_model_that_finds_nothing() -> None:
    assert read(Unsure(0.7), 0.8).generated == "Ada Lovelace [1]"  # 0.7/0.3 * 0.2/0.8 < 1
    assert read(Unsure(0.3), 0.2).generated == NO_ANSWER


def test_circles_end_with_the_first_repetition() -> None:
    reading = read(Scripted("It is red. It is blue. It is red. It is blue."))
    assert (reading.generated, reading.stats.finish_reason) == ("It is red. It is blue.", "repetition")


@pytest.mark.parametrize(("languages", "covered"), [((), True), (("en", "de"), True), (("en",), False)])
def test_a_tuning_covers_its_languages(languages: tuple[str, ...], covered: bool) -> None:
    english = Hit(1, "/1", "", "txt", "en", Chunk(0, 0, 1, "a"), 0.5, 0.5, 0.5)
    german = dataclasses.replace(english, language="de")
    assert Tuning(languages).covers([english, german]) is covered
