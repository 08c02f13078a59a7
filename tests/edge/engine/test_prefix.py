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


def test_what_another_adapter_kept_is_left_alone() -> None:
    cache: PrefixCache[str] = PrefixCache(2)
    cache.put("a", [1, 2, 3, 4], "legal")
    assert cache.take([1, 2, 3, 4]) is None
    assert cache.take([1, 2, 3, 4], "other") is None
    cache.put("b", [9, 9, 9, 9])
    assert cache.take([5, 5, 5, 5]) is None  # the least recently used is the adapter's: it is given up, not used
    assert cache.take([1, 2, 3, 4], "legal") == ("a", 2)


@given(st.lists(st.tuples(PROMPTS, st.sampled_from([None, "a", "b"])), max_size=14), st.integers(0, 3))
def test_what_is_held_is_a_prefix_of_both_and_never_too_much(
    requests: list[tuple[list[int], str | None]], size: int
) -> None:
    """A generator is a list of what it holds: each token with the adapter that it was read under."""
    cache: PrefixCache[list[tuple[int, str | None]]] = PrefixCache(size)
    for prompt, adapter in requests:
        wanted = [(token, adapter) for token in prompt]
        taken = cache.take(prompt, adapter)
        if taken is None:
            cache.make_room()
        generator, held = taken if taken else ([], 0)
        assert len(cache) + 1 <= max(size, 1)
        assert generator[:held] == wanted[:held]
        assert {under for _, under in generator} <= {adapter}, "not even an empty one: it has its adapter for good"
        assert held <= max(0, len(prompt) - LEFT)
        generator[held:] = wanted[held:]  # what the engine does: rewind to `held`, read the rest
        cache.put(generator, prompt, adapter)
        assert len(cache) <= size


def test_generators_in_use_take_the_room_of_kept_ones() -> None:
    cache: PrefixCache[str] = PrefixCache(2, most=3)
    cache.put("a", [1, 1, 1, 1])
    cache.put("b", [2, 2, 2, 2])
    assert cache.take([3, 3, 3, 3], in_use=0) is None  # two kept, one more fits
    assert cache.take([3, 3, 3, 3], in_use=1) == ("a", 0)  # three there are: one of them serves
    cache.make_room(in_use=2)
    assert len(cache) == 0


@given(st.lists(st.tuples(st.booleans(), PROMPTS), max_size=30), st.integers(0, 3), st.integers(1, 3))
def test_there_are_never_more_generators_than_the_ledger_counts(
    events: list[tuple[bool, list[int]]], size: int, sessions: int
) -> None:
    """Requests begin and end in any order, as many at the same time as there may be sessions."""
    most = max(size, sessions)
    cache: PrefixCache[object] = PrefixCache(size, most)
    running: list[tuple[object, list[int]]] = []
    for begins, prompt in events:
        if begins and len(running) < sessions:
            if (taken := cache.take(prompt, in_use=len(running))) is None:
                cache.make_room(len(running))
            generator = taken[0] if taken else object()
            assert all(generator is not other for other, _ in running)
            running.append((generator, prompt))
        elif running:
            cache.put(*running.pop(0))
        assert len(cache) <= size and len(cache) + len(running) <= most
