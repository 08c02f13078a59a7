"""Texts that say the same are found, others are not, and it stays quick."""

from __future__ import annotations

import random
import time

from optimize.dataset.duplicates import contained, crossing, groups

WORDS = [f"w{number:03}x" for number in range(400)]


def text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def test_exact_and_near_duplicates() -> None:
    long = text(1)
    texts = [long, text(2), f"  {long.upper()}!", f"{long} extra", text(3), "", "?"]
    found = groups(texts)
    assert found.exact == ((0, 2),)
    assert found.near == ((0, 3),)


def test_texts_that_merely_share_words_are_no_duplicates() -> None:
    half = text(1, 30)
    found = groups([f"{half} {text(seed, 30)}" for seed in range(2, 30)])
    assert found.near == () and found.exact == ()


def test_across_two_sets() -> None:
    left = [text(1), text(2), text(3)]
    right = [text(9), text(2).title(), f"{text(3)} end", ""]
    assert crossing(left, right) == [(1, 1), (2, 2)]
    assert crossing(right, right[:1]) == [(0, 0)]
    assert crossing([], right) == []


def test_a_part_of_a_longer_text_is_found() -> None:
    whole = text(1, 400)
    part = " ".join(whole.split()[100:160])
    shares = contained([whole], [part, text(5), f"{part} {text(6)}", ""])
    assert shares[0] == 1.0 and shares[1] == 0.0 and shares[3] == 0.0
    assert 0.3 < shares[2] < 0.6


def test_eight_thousand_texts_take_seconds() -> None:
    texts = [text(seed % 7000, 40) for seed in range(7600)] + ["the same"] * 400
    began = time.monotonic()
    found = groups(texts)
    assert time.monotonic() - began < 20
    assert len(found.exact) == 601
