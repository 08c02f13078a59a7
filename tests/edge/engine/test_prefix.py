"""Which generator a prompt continues, and which one goes when there are too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.engine.prefix import LEFT, PrefixCache

PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def test_the_shared_beginning_is_continued() -> None:
    cache: PrefixCache[str] = PrefixCache(1)
    assert cache.take([1, 2, 3]) is None
    cache.put("a", [1, 2, 3, 4, 5])
    assert cache.take([1, 2, 3, 9, 9]) == ("a", 3)
    assert len(cache) == 0  # until it is brought back


def test_the_same_prompt_leaves_tokens_to_read() -> None:
    cache: PrefixCache[str] = PrefixCache(1)
    cache.put("a", [1, 2, 3, 4])
    assert cache.take([1, 2, 3, 4]) == ("a", 4 - LEFT)


def test_the_only_generator_is_taken_even_where_nothing_is_shared() -> None:
    cache: PrefixCache[str] = PrefixCache(1)
    cache.put("a", [1, 2, 3])
    assert cache.take([9, 9, 9]) == ("a", 0)


def test_with_room_left_a_far_prompt_gets_a_generator_of_its_own() -> None:
    cache: PrefixCache[str] = PrefixCache(2)
    cache.put("a", [1, 2, 3, 4, 5, 6])
    assert cache.take([1, 2, 7, 7, 7, 7]) is None
    assert cache.take([1, 2, 3, 4, 7, 7]) == ("a", 4)


def test_without_room_the_least_recently_used_serves_a_far_prompt() -> None:
    cache: PrefixCache[str] = PrefixCache(2)
    cache.put("a", [1, 1, 1, 1])
    cache.put("b", [2, 2, 2, 2])
    assert cache.take([3, 3, 3, 3]) == ("a", 0)
    assert cache.take([2, 2, 2, 9]) == ("b", 2)


def test_one_too_many_and_no_cache_at_all() -> None:
    cache: PrefixCache[str] = PrefixCache(2)
    for name in "abc":
        cache.put(name, [ord(name)] * 8)
    assert len(cache) == 2 and cache.take([ord("a")] * 8) == ("b", 0)
    none: PrefixCache[str] = PrefixCache(0)
    none.put("a", [1, 2, 3])
    assert none.take([1, 2, 3]) is None


def test_room_is_made_before_one_more_is_built() -> None:
    cache: PrefixCache[str] = PrefixCache(2)
    cache.put("a", [1])
    cache.make_room()
    assert len(cache) == 1
    cache.put("b", [2])
    cache.make_room()
    assert len(cache) == 1


@given(st.lists(PROMPTS, max_size=12), st.integers(0, 3))
def test_what_is_held_is_a_prefix_of_both_and_never_too_much(prompts: list[list[int]], size: int) -> None:
    cache: PrefixCache[list[int]] = PrefixCache(size)
    for prompt in prompts:
        taken = cache.take(prompt)
        generator, held = taken if taken else ([], 0)
        assert len(cache) + 1 <= max(size, 1)
        assert generator[:held] == prompt[:held]
        assert held <= max(0, len(prompt) - LEFT)
        generator[:] = prompt  # what the engine does: rewind to `held`, read the rest
        cache.put(generator, prompt)
        assert len(cache) <= size
