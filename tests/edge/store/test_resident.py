"""The sign bits in memory find what an exact search finds, and follow what any connection writes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.store import resident, signs
from edge.store.chunks import Identity, Store
from edge.store.filters import Filter
from edge.store.resident import Resident, breadth, resident_bytes
from edge.store.search import Searcher
from edge.store.upkeep import compact, problems
from edge.store.vectors import BLOCK, read_all

EVERYTHING = Filter()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred vectors make several segments."""
    monkeypatch.setattr(signs, "SEGMENT", 2 * BLOCK)
    monkeypatch.setattr(resident, "SEGMENT", 2 * BLOCK)
    monkeypatch.setattr(resident, "BLOCKS", 2)


@pytest.fixture
def generous(small_segments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every vector is a candidate."""
    monkeypatch.setattr(resident, "breadth", lambda count, chunks: (10**6, 10**6))


def fast(store: Store) -> Searcher:
    return Searcher(store, exact_chunks=0)


def assert_same(store: Store, query: np.ndarray, where: Filter = EVERYTHING, depth: int = 10**6) -> None:
    assert fast(store).dense(query, depth, where) == Searcher(store).exact(query, depth, where)


def assert_current(store: Store) -> None:
    """What a search looks at are the signs of the vectors that the index holds now, each under its id."""
    store.resident.refresh()
    stored = {
        id: signs.pack(row[None]) for ids, rows in read_all(store.connection) for id, row in zip(ids, rows, strict=True)
    }
    held = {
        segment.base + int(offset): segment.words[:, place]
        for segment in store.resident._segments.values()
        for place, offset in enumerate(segment.offsets)
    }
    assert held.keys() == stored.keys()
    assert all((signs.words_of(stored[id])[:, 0] == words).all() for id, words in held.items())


def put(kit: Any, store: Store, name: str, chunks: int, **kwargs: Any) -> None:
    kit.put(store, kit.document(f"/d/{name}", "x" * (kit.chunk_characters * chunks), **kwargs))


kinds = st.sampled_from(["put", "put", "put", "remove", "compact", "search"])
operations = st.lists(st.tuples(kinds, st.integers(0, 5), st.integers(1, 700)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=operations)
def test_whatever_is_done_signs_with_all_candidates_equal_the_exact_search(
    kit: Any, generous: None, tmp_path_factory: pytest.TempPathFactory, operations: list[Any]
) -> None:
    """Two connections: one writes, the other only searches, sometimes in between."""
    kit.path = tmp_path_factory.mktemp("index") / "index.db"
    query = kit.vectors(1)[0]
    with kit.open() as writer, kit.open() as reader:
        for operation, document, chunks in operations:
            if operation == "put":
                put(kit, writer, str(document), chunks)
            elif operation == "remove":
                writer.remove([f"/d/{document}"])
            elif operation == "compact":
                compact(writer)
            else:
                assert_same(reader, query)
        for store in (writer, reader):
            assert_same(store, query)
            assert_same(store, query, Filter.parse(["source=[0-2]"]))
            assert_current(store)
        assert problems(writer) == []


def test_a_rebuild_with_other_vectors_is_noticed(kit: Any, generous: None) -> None:
    with kit.open() as writer, kit.open() as reader:
        put(kit, writer, "a", 300)
        query = kit.vectors(1)[0]
        assert_same(reader, query)
        kit.dim = 16
        with writer.transaction():
            writer.reset(Identity("embedder-2", 16, "chunker-1"))
            put(kit, writer, "a", 200)
        assert_same(reader, kit.vectors(1)[0])
        assert len(reader.resident) == 200


def test_what_is_undone_was_never_there(kit: Any, generous: None) -> None:
    """A search within a transaction sees its rows; after the rollback another connection writes under the same ids."""
    with kit.open() as one, kit.open() as other:
        put(kit, one, "a", 10)
        query = kit.vectors(1)[0]
        with pytest.raises(RuntimeError), one.transaction():
            put(kit, one, "b", 20)
            assert_same(one, query)
            assert len(one.resident) == 30
            raise RuntimeError
        put(kit, other, "c", 20)
        assert_same(one, query)
        assert_current(one)


def test_only_changed_blocks_are_read_again(kit: Any, generous: None) -> None:
    with kit.open() as writer, kit.open() as reader:
        for number in range(8):
            put(kit, writer, str(number), BLOCK)
        assert_same(reader, kit.vectors(1)[0])
        put(kit, writer, "0", BLOCK)
        seen = reader.resident._seen
        assert seen is not None
        assert len(list(reader.resident._blocks(seen.generation))) <= 2
        assert_same(reader, kit.vectors(1)[0])


def test_signs_find_most_of_the_nearest_with_few_candidates(
    kit: Any, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters, as texts make them: 40 of 3000 vectors are compared, and most of the 10 nearest are among them."""
    kit.dim = 128
    kit.identity["dim"] = 128
    drawn = np.random.default_rng(3)
    centres = drawn.normal(size=(60, 128))
    monkeypatch.setattr(resident, "breadth", lambda count, chunks: (300, 40))
    monkeypatch.setattr(
        type(kit), "vectors",
        lambda self, count: unit(centres[drawn.integers(60, size=count)] + 0.8 * drawn.normal(size=(count, 128))),
    )  # fmt: skip
    with kit.open() as store:
        put(kit, store, "a", 3000)
        found = possible = 0
        for query in kit.vectors(20):
            exact = {id for id, _ in Searcher(store).exact(query, 10, EVERYTHING)}
            found += len(exact & {id for id, _ in fast(store).dense(query, 10, EVERYTHING)})
            possible += 10
    assert found / possible > 0.9


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("allowed", [1, 40, 299])
def test_the_filter_holds_before_candidates_are_chosen(kit: Any, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """Few candidates, and nearly all vectors are forbidden: those allowed are found all the same, exactly where they
    are few."""
    monkeypatch.setattr(resident, "breadth", lambda count, chunks: (60, 41))
    with kit.open() as store:
        put(kit, store, "much", 5000)
        put(kit, store, "rare", allowed, tags=("rare",))
        where = Filter.parse(["tag=rare"])
        query = kit.vectors(1)[0]
        for exact_chunks in (0, 300):
            found = Searcher(store, exact_chunks).dense(query, 40, where)
            assert len(found) == min(allowed, 40)
            assert exact_chunks == 0 or found == Searcher(store).exact(query, 40, where)
            assert {hit.document for hit in Searcher(store).found(id for id, _ in found).values()} == {"/d/rare"}


def test_below_the_limit_nothing_is_kept_in_memory(kit: Any) -> None:
    with kit.open() as store:
        put(kit, store, "a", 50)
        Searcher(store, exact_chunks=50).dense(kit.vectors(1)[0], 5, EVERYTHING)
        assert len(store.resident) == 0
        Searcher(store, exact_chunks=49).dense(kit.vectors(1)[0], 5, EVERYTHING)
        assert len(store.resident) == 50


def test_an_index_that_has_become_empty(kit: Any) -> None:
    with kit.open() as store:
        assert fast(store).dense(kit.vectors(1)[0], 5, EVERYTHING) == []
        put(kit, store, "a", 50)
        assert len(fast(store).dense(kit.vectors(1)[0], 5, EVERYTHING)) == 5
        store.remove(["/d/a"])
        assert fast(store).dense(kit.vectors(1)[0], 5, EVERYTHING) == []


@pytest.mark.parametrize("changed", [1, 2, 64])  # one block in so many
@pytest.mark.parametrize(("chunks", "dim"), [(300, 384), (20_000, 384), (60_000, 384), (20_000, 100)])
def test_memory_stays_within_what_the_ledger_is_told(tmp_path: Path, chunks: int, dim: int, changed: int) -> None:
    """From nothing, over reading and a search, to a refresh: never more than `resident_bytes`, nor much less."""
    drawn = np.random.default_rng(0)
    with Store.open(tmp_path / "index.db", create=True, fingerprint="e", dim=dim, chunker="c") as store:
        with store.transaction():
            store.connection.execute("PRAGMA foreign_keys = OFF")
            fill(store, chunks, dim, drawn)
        query = drawn.normal(size=dim).astype(np.float32)
        tracemalloc.start()
        try:
            kept = Resident(store.connection)
            kept.refresh()
            kept.nearest(query, 50)
            held, _ = tracemalloc.get_traced_memory()
            store.connection.execute("UPDATE signs SET generation = 2 WHERE block % ? = 0", (changed,))
            store.connection.execute("UPDATE totals SET generation = 2")
            kept.refresh()
            kept.nearest(query, 50)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(kept) == chunks
    assert kept.nbytes <= held
    assert peak <= resident_bytes(chunks, dim) <= 1.4 * peak + 2**20


def fill(store: Store, chunks: int, dim: int, drawn: np.random.Generator) -> None:
    for block in range(-(-chunks // BLOCK)):
        members = bytes(range(min(BLOCK, chunks - block * BLOCK)))
        bits = drawn.bytes(len(members) * -(-dim // 8))
        store.connection.execute("INSERT INTO signs VALUES (?, 1, ?, ?)", (block, members, bits))
    store.connection.execute("UPDATE totals SET generation = 1, chunks = ?", (chunks,))


def test_a_million_chunks_stay_below_64_mib() -> None:
    assert resident_bytes(1_000_000, 384) <= 64 * 2**20
    assert resident_bytes(100_000, 384) <= 9 * 2**20


def test_breadth_grows_with_what_is_asked_for_and_with_the_index() -> None:
    assert breadth(10, 100_000) == breadth(10, 1) == (resident.LEAST_COARSE, resident.LEAST_FINE)
    coarse, fine = breadth(500, 1000)
    assert coarse > fine > 500
    assert breadth(10, 800_000) == (2 * resident.LEAST_COARSE, 2 * resident.LEAST_FINE)


# -- the bits themselves


@pytest.mark.parametrize("dim", [1, 8, 63, 64, 65, 384])
def test_words_hold_the_signs_component_by_component(dim: int) -> None:
    vectors = np.random.default_rng(dim).normal(size=(5, dim)).astype(np.float32)
    words = signs.words_of(signs.pack(vectors))
    assert words.shape == (-(-dim // 64), 5)
    for row in range(5):
        bits = [bool(int(words[i // 64, row]) >> (i % 64) & 1) for i in range(dim)]
        assert bits == list(vectors[row] > 0)


@pytest.mark.parametrize("dim", [1, 12, 64, 384])
def test_products_are_those_of_signs_and_query(dim: int) -> None:
    drawn = np.random.default_rng(dim)
    vectors, query = drawn.normal(size=(50, dim)).astype(np.float32), drawn.normal(size=dim).astype(np.float32)
    found = signs.products(signs.words_of(signs.pack(vectors)), query)
    np.testing.assert_allclose(2 * found - query.sum(), np.sign(vectors) @ query, atol=1e-4)
