"""Terms: what a reader types finds what a writer wrote, in each language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import lexical


@pytest.mark.parametrize(
    ("written", "asked", "language"),
    [
        ("The gateways were restarted", "restart the gateway", "en"),
        ("Die Geräte wurden ausgeschaltet", "gerät", "de"),
        ("Größe", "GROSSE", "de"),
        ("Blåbærene i hagen", "BLÅBÆR", "no"),
        ("Feilmeldingene på skjermen", "feilmelding", "no"),
        ("café", "CAFE", "fr"),
        ("ﬁlter", "filter", "en"),
        ("the user's manual", "user manual", "en"),
    ],
)
def test_spellings_meet(written: str, asked: str, language: str) -> None:
    assert set(lexical.query(asked, language).terms) <= set(lexical.terms(written, language))


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("Error E-17: no link", "E-17"),
        ("Error E-17: no link", "E17"),
        ("Error E-17: no link", "17"),
        ("at 192.168.1.1 only", "192.168.1.1"),
        ("at 192.168.1.1 only", "192"),
        ("model GW-200", "gw 200"),
        ("firmware v2.10.3", "v2.10.3"),
    ],
)
def test_identifiers_are_found_whole_and_by_parts(written: str, asked: str) -> None:
    assert set(lexical.terms(written, "en")) & set(lexical.query(asked, "en").terms)


def test_a_whole_identifier_is_one_rare_term() -> None:
    assert "e17" in lexical.terms("E-17", "en")
    assert "e17" not in lexical.terms("E-18 and 17", "en")
    assert "192_168_1_1" not in lexical.terms("192.168.11", "en")


def test_stop_words_are_of_the_language_of_the_question() -> None:
    """ "die" and "war" are stop words of German questions only."""
    assert "war" in lexical.query("When did the war begin?", "en").terms
    assert lexical.query("Wann war die Wartung?", "de").terms == ("wartung",)
    assert lexical.query("Hvor lenge skal knappen holdes inne?", "no").terms[-1] == "inn"
    assert "skal" not in lexical.query("Hvor lenge skal knappen holdes inne?", "no").terms


def test_a_question_of_stop_words_keeps_them() -> None:
    assert lexical.query("to be or not to be", "en").terms == ("to", "be", "or", "not")


def test_pairs_hold_at_most_one_stop_word() -> None:
    assert lexical.query("the cause of the failure", "en").pairs == (("the", "caus"), ("caus", "of"), ("the", "failur"))


def test_scripts_without_spaces_are_cut_into_pairs() -> None:
    assert lexical.terms("東京タワー", "ja") == ["東京", "京タ", "タワ", "ワー"]


@given(st.text(), st.sampled_from([*lexical.SNOWBALL, "xx"]))
def test_terms_can_be_parted_by_spaces(text: str, language: str) -> None:
    """The store joins them by spaces and FTS5 parts them again: none may be empty or hold a space."""
    for term in lexical.terms(text, language):
        assert term and not any(character.isspace() for character in term)
