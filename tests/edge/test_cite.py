"""Citations: the right span is found, never just the top chunk, and what is not supported is not cited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cite import cite, quote
from edge.types import Chunk, Hit, Passage


def passages(*texts: str, language: str = "en", offset: int = 0) -> list[Passage]:
    """Passages [1], [2], ... of documents /1, /2, ..., each chunk beginning at character `offset`."""
    found = []
    for marker, text in enumerate(texts, 1):
        chunk = Chunk(0, offset, offset + len(text), text)
        hit = Hit(marker, f"/{marker}", "", "txt", language, chunk, 0.5, 0.5, 1.0 / marker)
        found.append(Passage(marker, hit))
    return found


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
