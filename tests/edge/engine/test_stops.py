"""An answer ends before the first stop string, however its text is cut into tokens."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.engine.stops import StopFilter
from edge.types import Token

PIECES = st.lists(st.text("abc", max_size=4), max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def run(pieces: list[str], stops: list[str]) -> tuple[list[list[Token]], bool]:
    """What comes out after each piece, and at last at the end, if no stop string was found."""
    held, shown = StopFilter(stops), []
    for number, piece in enumerate(pieces):
        shown.append(held.push(Token(number, piece)))
        if held.found:
            return shown, True
    shown.append(held.flush())
    return shown, False


def text_of(shown: list[list[Token]]) -> str:
    return "".join(token.text for tokens in shown for token in tokens)


def before_first(text: str, stops: list[str]) -> str | None:
    """By definition: character after character, until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))]
    return None


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (["one", " two", " three"], [" t"], "one"),
        (["a", "E", "N", "D", "b"], ["END"], "a"),
        (["a", "E", "N", "x"], ["END"], "aENx"),
        (["E", "E", "N", "D"], ["END"], "E"),  # the first E is not the string's beginning, the second is
        (["no", "END"], ["END"], "no"),
        (["xENDy"], ["END"], "x"),
        (["END"], ["END"], ""),
        (["", "ab", ""], ["abc"], "ab"),
        (["abcd"], ["bc", "abcd"], "a"),  # complete first
        (["xabc"], ["bc", "abc"], "x"),  # complete together: the longest
        (["line\n", "\n", "next"], ["\n\n"], "line"),
    ],
)
def test_text_before_the_first_stop_string(pieces: list[str], stops: list[str], text: str) -> None:
    assert text_of(run(pieces, stops)[0]) == text


@given(PIECES, STOPS)
@example(["ab", "ab", "c"], ["abc", "bab"])
def test_where_tokens_begin_and_end_changes_nothing(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    expected = before_first(whole, stops)
    shown, found = run(pieces, stops)
    assert found == (expected is not None)
    assert text_of(shown) == (whole if expected is None else expected)


@given(PIECES, STOPS)
def test_tokens_come_once_in_order_and_whole_but_for_the_last(pieces: list[str], stops: list[str]) -> None:
    shown, found = run(pieces, stops)
    tokens = [token for step in shown for token in step]
    assert [token.id for token in tokens] == list(range(len(tokens)))
    assert [token.text for token in tokens[:-1]] == pieces[: len(tokens) - 1 if tokens else 0]
    if tokens:
        assert pieces[len(tokens) - 1].startswith(tokens[-1].text)
    if not found:
        assert len(tokens) == len(pieces)


@given(PIECES, STOPS)
def test_what_is_held_may_still_begin_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    """Nothing waits for long: what is held is at most the token that such a beginning starts in, and those after."""
    held, shown = StopFilter(stops), 0
    for number, piece in enumerate(pieces):
        shown += len(held.push(Token(number, piece)))
        if held.found:
            return
        waiting = "".join(pieces[shown : number + 1])
        first = pieces[shown] if shown <= number else ""
        ends = [waiting[start:] for start in range(len(first))]
        assert not waiting or any(stop.startswith(end) for end in ends for stop in stops)


def test_without_stop_strings_nothing_is_held() -> None:
    assert [len(step) for step in run(["a", "", "b"], [])[0]] == [1, 1, 1, 0]
