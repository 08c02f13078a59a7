"""Citations: the right span is found, never just the top chunk, and what is not supported is not cited."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cite import cite, cite_marked, quote
from edge.types import Chunk, Hit, Near, Passage


def passages(*texts: str, language: str = "en", offset: int = 0) -> list[Passage]:
    """Passages [1], [2], ... of documents /1, /2, ..., each chunk beginning at character `offset`."""
    found = []
    for marker, text in enumerate(texts, 1):
        chunk = Chunk(0, offset, offset + len(text), text)
        hit = Hit(marker, f"/{marker}", "", "txt", language, chunk, 0.5, 0.5, 1.0 / marker)
        found.append(Passage(marker, hit))
    return found


def with_hit(passage: Passage, **changes: object) -> Passage:
    return dataclasses.replace(passage, hit=dataclasses.replace(passage.hit, **changes))  # type: ignore[arg-type]


RESET = "The gateway has a reset button. Hold the reset button for 12 seconds for a factory reset. The lamp blinks."
FUSE = "Fuse F1 is a slow-blow fuse of 2 ampere. Replace it with the same kind."


def test_the_citation_is_the_sentence_that_holds_the_answer() -> None:
    (sentence,) = cite("Hold it for 12 seconds.", "How long is the reset button held?", passages(FUSE, RESET), 0.6)
    assert sentence.citation is not None
    assert sentence.citation.marker == 2
    assert sentence.citation.text == "Hold the reset button for 12 seconds for a factory reset."


@pytest.mark.parametrize("order", [(RESET, FUSE), (FUSE, RESET)])
def test_citing_the_top_chunk_would_be_wrong(order: tuple[str, str]) -> None:
    (sentence,) = cite("It is a slow-blow fuse.", "Which kind of fuse is F1?", passages(*order), 0.6)
    assert sentence.citation is not None
    assert "slow-blow" in sentence.citation.text
    assert sentence.citation.marker == order.index(FUSE) + 1


def test_spans_index_the_document_not_the_chunk() -> None:
    (sentence,) = cite("2 ampere", "Which fuse?", passages(FUSE, offset=1000), 0.6)
    citation = sentence.citation
    assert citation is not None
    assert (citation.start, citation.end) == (1000, 1000 + FUSE.index(" Replace"))


def test_a_wrong_number_is_not_supported() -> None:
    (sentence,) = cite("Hold the reset button for 20 seconds.", "How long?", passages(RESET), 0.6)
    assert sentence.citation is None


def test_each_sentence_is_judged_by_itself() -> None:
    text = "Fuse F1 is a slow-blow fuse. It was invented in Paris by Napoleon."
    supported, invented = cite(text, "What is F1?", passages(FUSE), 0.6)
    assert supported.citation is not None
    assert invented.citation is None
    assert text[invented.start : invented.end] == invented.text


def test_repeating_the_question_supports_nothing() -> None:
    question = "Who invented the reset button of the gateway?"
    (sentence,) = cite("The reset button of the gateway was invented by Edison.", question, passages(RESET), 0.6)
    assert sentence.citation is None


def test_stems_and_accents_of_the_passage_s_language_count() -> None:
    norwegian = "Kabelen mellom strømforsyningen og gatewayen kan være 15 meter lang. Bruk kobber."
    (sentence,) = cite("Kabler kan være 15 meter.", "Hvor lang?", passages(norwegian, language="no"), 0.6)
    assert sentence.citation is not None
    assert sentence.citation.text.startswith("Kabelen")


def test_two_sentences_are_cited_only_where_both_are_needed() -> None:
    both = "The pump is P-3. It was installed in Bergen in 2019. It is red."
    (short,) = cite("In Bergen in 2019.", "When and where?", passages(both), 0.6)
    (long,) = cite("P-3 was installed in Bergen.", "What was installed?", passages(both), 0.9)
    assert short.citation is not None and long.citation is not None
    assert short.citation.text == "It was installed in Bergen in 2019."
    assert long.citation.text == "The pump is P-3. It was installed in Bergen in 2019."


def test_a_summary_points_at_what_it_summarises() -> None:
    chunk = Chunk(9, 0, 5000, "The gateway is made in Halden.", kind="summary")
    passage = Passage(1, Hit(1, "/d", "", "txt", "en", chunk, 0.5, 0.5, 1.0))
    (sentence,) = cite("In Halden.", "Where is it made?", [passage], 0.6)
    assert sentence.citation is not None
    assert (sentence.citation.start, sentence.citation.end) == (0, 5000)


def test_quote_picks_the_sentence_that_answers() -> None:
    citation = quote("How long is the reset button held for a factory reset?", passages(FUSE, RESET))
    assert citation is not None
    assert citation.text.startswith("Hold the reset button for 12 seconds for a factory reset.")
    assert quote("Quantum chromodynamics?", passages(FUSE, RESET)) is None


def test_a_quotation_goes_on_to_the_end_of_its_paragraph_only() -> None:
    question = "How is the fuse F1 replaced?"
    same = "The fuse F1 is replaced with power off. It sits behind the cover."
    assert getattr(quote(question, passages(same)), "text", None) == same
    parted = same.replace(". It", ".\n\nIt")
    assert getattr(quote(question, passages(parted)), "text", None) == "The fuse F1 is replaced with power off."
    below = "How the fuse F1 is replaced\n\nSwitch the power off first."
    assert getattr(quote(question, passages(below)), "text", None) == below  # a heading goes with what follows


def test_a_quotation_heeds_how_near_retrieval_found_a_sentence() -> None:
    question = "What voltage does the pump take?"
    texts = ("Too high a voltage stops the pump.", "The voltage may lie between 12 and 36 volts.")
    found = [with_hit(passage, score=0.5) for passage in passages(*texts)]
    assert getattr(quote(question, found), "text", None) == texts[0]
    near = [with_hit(p, near=(Near(0, len(p.hit.chunk.text), c),)) for p, c in zip(found, (0.1, 0.8), strict=True)]
    assert getattr(quote(question, near), "text", None) == texts[1]


def test_the_next_sentence_counts_for_the_one_before() -> None:
    texts = ("The shed has a door. It was painted in May.", "The shed has a door. Its lock is green.")
    found = [with_hit(passage, score=0.5) for passage in passages(*texts)]
    assert getattr(quote("Which lock has the door of the shed?", found), "text", None) == texts[1]


def test_a_quotation_of_a_summary_points_at_what_it_summarises() -> None:
    chunk = Chunk(9, 0, 5000, "The pump is made in Halden. It weighs nine kilograms.", kind="summary")
    citation = quote("Where is the pump made?", [Passage(1, Hit(1, "/d", "", "txt", "en", chunk, 0.5, 0.5, 1.0))])
    assert citation is not None
    assert (citation.start, citation.end, citation.text) == (0, 5000, chunk.text)


@pytest.mark.parametrize(
    ("answer", "text", "supported"),
    [
        ("It works at 40 degrees.", "It can be stored at -40 degrees.", False),
        ("It works at -40 degrees.", "It can be stored at -40 degrees.", True),
        ("It takes 36 volts.", "It takes 12-36 volts.", True),
        ("It is the model 200.", "It is the model GW-200.", True),
        ("It works at 65 degrees.", "It works at up to +65 degrees.", True),
    ],
)
def test_a_sign_belongs_to_its_number(answer: str, text: str, supported: bool) -> None:
    (sentence,) = cite(answer, "What?", passages(text), 0.3)
    assert (sentence.citation is not None) is supported


def test_the_number_of_a_heading_is_no_evidence() -> None:
    text = "### 10.2 Passwords\n\nA password must have at least 14 characters."
    chunk = Chunk(0, 0, len(text), text, headings=("Manual", "10.2 Passwords"))
    passage = Passage(1, Hit(1, "/d", "", "txt", "en", chunk, 0.5, 0.5, 1.0))
    question = "How many characters must a password have?"
    assert cite("The answer is: 10.2.", question, [passage], 0.6)[0].citation is None
    assert cite("At least 14 characters.", question, [passage], 0.6)[0].citation is not None


@given(st.text(max_size=80), st.text(max_size=80), st.text(min_size=1, max_size=200))
def test_a_citation_s_text_is_its_span(answer: str, question: str, text: str) -> None:
    for sentence in cite(answer, question, passages(text), 0.5):
        if citation := sentence.citation:
            assert citation.text == text[citation.start : citation.end]
            assert 0.5 <= citation.score <= 1


def test_a_number_that_contradicts_the_passage_is_not_supported_even_where_the_question_said_it() -> None:
    found = passages("The gateway keeps its readings in flash memory for 72 hours.")
    (sentence,) = cite("Readings stay in flash memory for 90 hours.", "Does it keep readings for 90 hours?", found, 0.6)
    assert sentence.citation is None


def test_what_only_the_title_says_is_no_evidence_in_the_text() -> None:
    chunk = Chunk(0, 0, 12, "Keep it dry.", headings=("Frost gateway manual",))
    passage = Passage(1, Hit(1, "/d", "", "txt", "en", chunk, 0.5, 0.5, 1.0))
    (sentence,) = cite("It is the Frost gateway manual.", "What is this?", [passage], 0.6)
    assert sentence.citation is None


MANUAL = ("The pump weighs 12 kg. It was built in 1987 in Bergen.", "The valve weighs 7 kg. Its seal lasts two years.")


@pytest.mark.parametrize(
    ("reply", "text", "cited"),
    [
        ("7 kg [2]", "7 kg", [(2, "The valve weighs 7 kg.")]),
        ("7 kg [2].", "7 kg.", [(2, "The valve weighs 7 kg.")]),
        ("TWO  years [2]", "TWO  years", [(2, "Its seal lasts two years.")]),
        ("two years [1]", "two years", [(2, "Its seal lasts two years.")]),  # the wrong marker: found where it stands
        ("in 1987 in Bergen", "in 1987 in Bergen", [(1, "It was built in 1987 in Bergen.")]),  # none
        ("12 kg [1] and 7 kg [2]", "12 kg and 7 kg", [(1, "The pump weighs 12 kg."), (2, None)]),
        ("97 kg [2]", "97 kg", [None]),  # not there
        ("2 years [2]", "2 years", [None]),  # nor is this, as it is
        ("7 k [2]", "7 k", [None]),  # whole words
        (" [1] ", "", []),
        ("", "", []),
    ],
)
def test_markers_of_a_model_that_cites(reply: str, text: str, cited: list[tuple[int, str | None] | None]) -> None:
    shown, found = cite_marked(reply, "How heavy is it?", passages(*MANUAL), 0.6)
    assert shown == text
    assert [shown[one.start : one.end] for one in found] == [one.text for one in found]
    assert len(found) == len(cited)
    for one, wanted in zip(found, cited, strict=True):
        if wanted is None:
            assert one.citation is None
        else:
            assert one.citation is not None and one.citation.marker == wanted[0]
            assert wanted[1] in (None, one.citation.text)


def test_of_several_sentences_that_hold_the_words_the_one_that_is_asked_for_is_cited() -> None:
    text = "In 1990 the mill was sold. The bridge was built in 1990. In 1990 it rained."
    _, (found,) = cite_marked("1990 [1]", "When was the bridge built?", passages(text), 0.6)
    assert found.citation is not None and found.citation.text == "The bridge was built in 1990."
