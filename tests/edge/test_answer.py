"""The answer path with a scripted engine: abstention, quoting, citations, and what is reported."""

from __future__ import annotations

import dataclasses

import pytest

from edge.answer import ABSTENTION, NO_STATS, answer, answer_closed_book
from edge.config import EdgeConfig
from edge.errors import PromptTooLong, UsageError
from edge.prompt import NO_ANSWER
from edge.reading import Reader, Reading, Tuning
from edge.types import Chunk, Hit, Token
from tests.edge.scripted import Scripted

RESET = "The gateway has a reset button. Hold the reset button for 12 seconds for a factory reset."
QUESTION = "How long must I hold the reset button?"


def hit(text: str = RESET, relevance: float = 0.9, number: int = 1) -> Hit:
    chunk = Chunk(0, 100, 100 + len(text), text)
    return Hit(number, f"/{number}.txt", "", "txt", "en", chunk, 0.5, 0.5, 0.5, 0.5, relevance)


CONFIG = EdgeConfig()


def test_a_supported_answer_is_cited() -> None:
    tokens: list[Token] = []
    found = answer(
        QUESTION, retrieve=lambda q: [hit()], engine=Scripted("Hold it for 12 seconds."), config=CONFIG,
        on_token=tokens.append,
    )  # fmt: skip
    assert found.text == found.generated == "Hold it for 12 seconds."
    assert "".join(token.text for token in tokens) == found.text
    assert not found.abstained and not found.quoted
    (citation,) = found.citations
    assert RESET[citation.start - 100 : citation.end - 100] == citation.text
    assert found.stats.completion_tokens == 5


def test_nothing_relevant_is_an_abstention_without_asking_the_model() -> None:
    for hits in ([], [hit(relevance=0.1)]):
        engine = Scripted("The moon.")
        found = answer(QUESTION, retrieve=lambda q, hits=hits: hits, engine=engine, config=CONFIG)
        assert found.abstained
        assert found.text == ABSTENTION
        assert found.citations == () and engine.limits == []
        assert [dropped.reason for dropped in found.dropped] == ["floor"] * len(hits)


def test_an_answer_that_nothing_supports_is_replaced_by_a_quotation() -> None:
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=Scripted("About ninety minutes."), config=CONFIG)
    assert found.quoted
    assert found.text == found.citations[0].text
    assert "12 seconds" in found.text
    assert found.generated == "About ninety minutes."


def test_an_empty_generation_is_replaced_too() -> None:
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=Scripted(""), config=CONFIG)
    assert found.quoted and found.citations


def test_one_span_is_cited_once() -> None:
    engine = Scripted("Hold it for 12 seconds. It takes 12 seconds.")
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=engine, config=CONFIG)
    assert len(found.sentences) == 2
    assert len(found.citations) == 1


def test_a_bad_question_fails_before_anything_is_retrieved() -> None:
    def never(question: str) -> list[Hit]:
        raise AssertionError("retrieved for nothing")

    with pytest.raises(UsageError, match="empty"):
        answer(" ", retrieve=never, engine=Scripted("x"), config=CONFIG)
    with pytest.raises(PromptTooLong, match="shorten it by"):
        answer("why " * 300, retrieve=never, engine=Scripted("x"), config=CONFIG)


def test_the_context_of_the_bundle_bounds_prompt_and_answer() -> None:
    config = dataclasses.replace(CONFIG, answer=dataclasses.replace(CONFIG.answer, max_tokens=150))
    long = hit("word " * 60)
    found = answer(QUESTION, retrieve=lambda q: [long, hit(number=2)], engine=Scripted("12 seconds"), config=config)
    assert found.prompt is not None
    assert len(found.prompt.token_ids) + 150 <= Scripted.context_tokens
    assert [dropped.reason for dropped in found.dropped] == ["budget"]


def test_closed_book_shows_the_model_no_documents() -> None:
    engine = Scripted("Twelve.")
    found = answer_closed_book(QUESTION, engine=engine, config=CONFIG)
    assert found.text == "Twelve."
    assert found.citations == () and found.hits == ()
    assert "[1]" not in engine.prompts[-1]


def test_words_that_the_question_does_not_lead_to_are_not_trusted_unless_told_so() -> None:
    other = hit("The cabinet door of the pump house has a red lock. It was painted in 1987.", number=2)
    engine = Scripted("It was painted in 1987.")
    found = answer(QUESTION, retrieve=lambda q: [hit(), other], engine=engine, config=CONFIG)
    assert found.quoted and "12 seconds" in found.text
    support = dataclasses.replace(CONFIG, answer=dataclasses.replace(CONFIG.answer, trust="support"))
    found = answer(QUESTION, retrieve=lambda q: [hit(), other], engine=engine, config=support)
    assert not found.quoted and found.text == "It was painted in 1987."


def test_an_answer_that_wanders_off_is_not_trusted() -> None:
    other = hit("The cabinet door of the pump house has a red lock. It was painted in 1987.", number=2)
    engine = Scripted("Hold it for 12 seconds. It was painted in 1987.")
    found = answer(QUESTION, retrieve=lambda q: [hit(), other], engine=engine, config=CONFIG)
    assert found.quoted and [citation.marker for citation in found.citations] == [1]
    engine = Scripted("Hold it for 12 seconds. Napoleon did so too.")  # leans on nothing: shown, and marked as such
    found = answer(QUESTION, retrieve=lambda q: [hit(), other], engine=engine, config=CONFIG)
    assert not found.quoted and [s.citation is None for s in found.sentences] == [False, True]


def test_a_model_that_goes_round_in_circles_is_stopped() -> None:
    engine = Scripted("Hold it for 12 seconds. " * 20)
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=engine, config=CONFIG)
    assert found.generated == "Hold it for 12 seconds."
    assert found.stats.finish_reason == "repetition"


def test_words_without_any_evidence_are_not_shown() -> None:
    foreign = hit("Die Sicherung ist träge.")
    found = answer("What kind of fuse?", retrieve=lambda q: [foreign], engine=Scripted("A blue one."), config=CONFIG)
    assert found.abstained and found.generated == "A blue one."


def test_no_room_for_any_passage_is_an_error() -> None:
    with pytest.raises(PromptTooLong, match="no passage fits"):
        answer("why " * 70, retrieve=lambda q: [hit("word " * 90)], engine=Scripted("x"), config=CONFIG)


def test_a_model_that_cites_is_taken_at_its_word_where_the_passage_holds_it() -> None:
    other = hit("The cabinet door of the pump house has a red lock. It was painted in 1987.", number=2)
    hits = [hit(), other]
    found = answer(QUESTION, retrieve=lambda q: hits, engine=Scripted("1987 [2]"), config=CONFIG, tuning=Tuning())
    assert (found.text, found.quoted, found.generated) == ("1987", False, "1987 [2]")
    assert [(c.marker, c.text) for c in found.citations] == [(2, "It was painted in 1987.")]
    found = answer(QUESTION, retrieve=lambda q: hits, engine=Scripted("1988 [2]"), config=CONFIG, tuning=Tuning())
    assert found.quoted and "12 seconds" in found.text  # nothing bears it out


def test_passages_in_a_language_that_it_was_not_tuned_to_read_are_read_as_by_an_untuned_model() -> None:
    hits = [hit(), hit("The cabinet door of the pump house has a red lock. It was painted in 1987.", number=2)]
    marked, tuning = Scripted("1987 [2]"), Tuning(("no", "de"))
    found = answer(QUESTION, retrieve=lambda q: hits, engine=marked, config=CONFIG, tuning=tuning)
    assert found.quoted and "12 seconds" in found.text
    found = answer(QUESTION, retrieve=lambda q: hits, engine=Scripted(NO_ANSWER), config=CONFIG, tuning=Tuning(("no",)))
    assert not found.abstained


def test_a_model_may_say_that_the_passages_hold_no_answer() -> None:
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=Scripted(NO_ANSWER), config=CONFIG, tuning=Tuning())
    assert found.abstained and found.text == ABSTENTION and found.generated == NO_ANSWER
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=Scripted(NO_ANSWER), config=CONFIG)
    assert not found.abstained  # from a model that was not tuned to, it means nothing


@pytest.mark.parametrize(("said", "abstained"), [("1988 [2]", True), ("12 seconds [1]", False)])
def test_a_second_choice_is_shown_where_a_passage_bears_it_out_and_never_as_a_quotation(
    monkeypatch: pytest.MonkeyPatch, said: str, abstained: bool
) -> None:
    reading = Reading(said, NO_STATS, doubted=True)
    monkeypatch.setattr(Reader, "read_or_abstain", lambda *_, **__: reading)
    found = answer(QUESTION, retrieve=lambda q: [hit()], engine=Scripted("x"), config=CONFIG, tuning=Tuning())
    assert (found.abstained, found.quoted, found.generated) == (abstained, False, said)


def test_a_model_that_can_abstain_itself_is_asked_about_what_is_less_relevant() -> None:
    hits, tuning = [hit(relevance=0.15)], Tuning(("en",))
    found = answer(QUESTION, retrieve=lambda q: hits, engine=Scripted("12 seconds [1]"), config=CONFIG, tuning=tuning)
    assert found.text == "12 seconds"
    found = answer(QUESTION, retrieve=lambda q: hits, engine=Scripted("12 seconds"), config=CONFIG)
    assert found.abstained
    found = answer(
        QUESTION, retrieve=lambda q: [hit(relevance=0.05)], engine=Scripted("x"), config=CONFIG, tuning=tuning
    )
    assert found.abstained


@pytest.mark.parametrize("search_first", [False, True])
def test_where_memory_is_short_the_engine_waits_for_the_search(search_first: bool) -> None:
    engine, began = Scripted("12 seconds"), []

    def retrieve(question: str) -> list[Hit]:
        began.append(bool(engine.prompts))  # whether the engine's process was asked for anything
        return [hit()]

    found = answer(QUESTION, retrieve=retrieve, engine=engine, config=CONFIG, search_first=search_first)
    assert not found.abstained and began == [not search_first]
