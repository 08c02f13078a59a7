"""What is said of an index's recall is so, and larger indexes for measuring are what they are said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.store import recall, resident
from edge.store.recall import check, measure, sample
from edge.store.scale import COSINE, scaled
from edge.store.search import Searcher
from edge.store.upkeep import problems, status
from edge.store.vectors import read_all


def put(kit: Any, store: Any, name: str, chunks: int) -> None:
    kit.put(store, kit.document(f"/d/{name}", "x" * (kit.chunk_characters * chunks)))


def test_an_exact_search_finds_everything(kit: Any) -> None:
    with kit.open() as store:
        put(kit, store, "a", 500)
        found = check(store)
        assert found is not None
        assert (found.depth, found.recall) == (10, 1.0)
        assert 150 < found.queries <= recall.SAMPLE
        assert found.search_sec_p50 > 0 and found.exact_sec_p50 > 0


def test_recall_is_the_share_that_is_found(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that returns every second of the best ten, and worse ones instead, has a recall of a half."""
    exact = Searcher.exact

    def half(self: Searcher, vector: Any, depth: int, where: Any) -> Any:
        return exact(self, vector, 2 * depth, where)[1::2]

    with kit.open() as store:
        put(kit, store, "a", 500)
        monkeypatch.setattr(Searcher, "dense", half)
        assert measure(store, kit.vectors(20), depth=10).recall == 0.5


def test_questions_of_a_check_are_as_far_from_their_chunks_as_they_should_be(kit: Any) -> None:
    chunks = kit.vectors(50)
    turned = recall.turned(chunks, np.roll(chunks, 1, axis=0) - np.roll(chunks, 2, axis=0), 0.5)
    np.testing.assert_allclose((chunks * turned).sum(axis=1), 0.5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-5)


def test_recall_of_random_vectors_shows_too_few_candidates(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "breadth", lambda count, chunks: (40, 20))
    with kit.open() as store:
        put(kit, store, "a", 3000)
        few = check(store, exact_chunks=0)
        monkeypatch.setattr(resident, "breadth", lambda count, chunks: (3000, 3000))
        all_ = check(store, exact_chunks=0)
        assert few is not None and all_ is not None
        assert few.recall < 0.7 < all_.recall == 1.0


def test_an_index_of_copies_has_full_recall(kit: Any) -> None:
    """Chunks of the same text stand for each other."""
    kit.vectors = lambda count: np.tile(np.eye(1, kit.dim, dtype=np.float32), (count, 1))
    with kit.open() as store:
        put(kit, store, "a", 60)
        found = check(store, exact_chunks=0)
        assert found is not None and found.recall == 1.0


@pytest.mark.parametrize("chunks", [0, 2])
def test_too_few_chunks_to_check(kit: Any, chunks: int) -> None:
    with kit.open() as store:
        put(kit, store, "a", chunks)
        assert check(store) is None


def test_fewer_chunks_than_the_depth(kit: Any) -> None:
    with kit.open() as store:
        put(kit, store, "a", 4)
        found = check(store)
        assert found is not None and found.recall == 1.0


def test_a_sample_is_the_same_again_and_none_comes_twice(kit: Any) -> None:
    with kit.open() as store:
        put(kit, store, "a", 300)
        put(kit, store, "b", 300)
        store.remove(["/d/a"])
        first, again, other = (sample(store, 100, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first[:10], other[:10])
        assert len(np.unique(first, axis=0)) == len(first)
        stored = np.concatenate([vectors for _, vectors in read_all(store.connection)])
        assert (first @ stored.T).max(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_scaled_index_has_real_vectors_first_and_then_perturbed_copies(kit: Any, tmp_path: Any) -> None:
    with kit.open() as store:
        put(kit, store, "a", 300)
        real = np.concatenate([vectors for _, vectors in read_all(store.connection)])
        target, count = scaled(store, tmp_path / "large.db", 5000)
        with target:
            made = np.concatenate([vectors for _, vectors in read_all(target.connection)])
            assert (count, status(target).chunks, problems(target)) == (300, 5000, [])
        np.testing.assert_array_equal(made[:300], real)
        np.testing.assert_allclose((made[300:] * real[np.arange(300, 5000) % 300]).sum(axis=1), COSINE, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
        small, count = scaled(store, tmp_path / "small.db", 100)
        with small:
            assert (count, status(small).chunks) == (100, 100)
        with pytest.raises(ValueError, match="exists"):
            scaled(store, tmp_path / "small.db", 100)
