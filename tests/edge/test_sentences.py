from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sentences import neighbours, sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hold it for 10 s. Then wait.", ["Hold it for 10 s.", "Then wait."]),
        ("Dr. Berg measured 3.14 volts. Fine.", ["Dr. Berg measured 3.14 volts.", "Fine."]),
        ("J. Smith came. He left.", ["J. Smith came.", "He left."]),
        ("Am 3. Mai wurde geprüft. Ja?", ["Am 3. Mai wurde geprüft.", "Ja?"]),
        ("See fig. 2. No. He said no. Good.", ["See fig. 2.", "No.", "He said no.", "Good."]),
        ("Bruk f.eks. Torx. Ærlig talt.", ["Bruk f.eks. Torx.", "Ærlig talt."]),
        ("- one\n- two\n\nThree.", ["- one", "- two", "Three."]),
        ('"Stop!" She ran.', ['"Stop!"', "She ran."]),
        ("これはペンです。それは本です。", ["これはペンです。", "それは本です。"]),
        ("  \n ", []),
    ],
)
def test_known_cases(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_a_wrapped_line_does_not_end_a_sentence() -> None:
    text = "The gateway keeps its readings for a while when the\nbroker cannot be reached at all, as said above.\n"
    assert len(sentences(text)) == 1


@given(st.text(alphabet=st.sampled_from("aB1.!? \n\"'(-。é"), max_size=200))
def test_spans_are_in_order_and_cover_all_ink(text: str) -> None:
    covered, end = [], 0
    for start, stop in sentences(text):
        assert end <= start < stop
        assert text[start:stop] == text[start:stop].strip()
        assert not text[end:start].strip()
        covered.append(text[start:stop])
        end = stop
    assert not text[end:].strip()


def test_neighbours_are_each_alone_and_each_two_in_a_row() -> None:
    assert list(neighbours([])) == []
    assert list(neighbours([(0, 3)])) == [((0, 3),)]
    spans = [(0, 3), (4, 6), (8, 9)]
    assert list(neighbours(spans)) == [((0, 3),), ((4, 6),), ((8, 9),), ((0, 3), (4, 6)), ((4, 6), (8, 9))]
