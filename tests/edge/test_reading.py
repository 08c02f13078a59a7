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


class Told(ScriptedSession):
    def __init__(self, engine: Unsure, session: ScriptedSession) -> None:
        self.engine, self._words, self.stats = engine, session._words, session.stats

    def __iter__(self) -> Iterator[Token]:
        for token in super().__iter__():
            own = (token.id, token.text, self.engine.each)
            yield dataclasses.replace(token, logprobs=Logprobs(self.engine.each, (own, *self.engine.others)))


def read(engine: Scripted) -> Reading:
    return Reader(engine, Sampling(), None, lambda _: None, lambda _: None).read_or_abstain(PROMPT)


def test_no_answer_is_believed_where_it_is_more_likely_than_not() -> None:
    engine = Unsure(0.6)
    assert read(engine).generated == NO_ANSWER
    assert engine.read == [(1, 2), (1, 2)]


def test_else_the_best_other_word_begins_the_answer() -> None:
    engine = Unsure(0.4)
    assert read(engine).generated == "Ada Lovelace [1]"
    assert engine.read == [(1, 2), (1, 2), (1, 2, 8)]  # not with white space


def test_without_another_word_it_stays() -> None:
    assert read(Unsure(0.4, others=((7, " ", -0.8),))).generated == NO_ANSWER


def test_an_answer_is_read_once() -> None:
    engine = Scripted("Ada Lovelace [1]")
    assert read(engine).generated == "Ada Lovelace [1]"
    assert len(engine.limits) == 1


def test_circles_end_with_the_first_repetition() -> None:
    reading = read(Scripted("It is red. It is blue. It is red. It is blue."))
    assert (reading.generated, reading.stats.finish_reason) == ("It is red. It is blue.", "repetition")


@pytest.mark.parametrize(("languages", "covered"), [((), True), (("en", "de"), True), (("en",), False)])
def test_a_tuning_covers_its_languages(languages: tuple[str, ...], covered: bool) -> None:
    english = Hit(1, "/1", "", "txt", "en", Chunk(0, 0, 1, "a"), 0.5, 0.5, 0.5)
    german = dataclasses.replace(english, language="de")
    assert Tuning(languages).covers([english, german]) is covered
