"""An index made by an earlier version of this program comes along with everything that was in it."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import StoreMismatch
from edge.store import migrations
from edge.store.chunks import Store
from edge.store.connect import connect
from edge.store.filters import Filter
from edge.store.search import Searcher
from edge.store.upkeep import problems, status


def schema_1(path: Path, dim: int, vectors: np.ndarray, ids: list[int]) -> None:
    """An index as the first version wrote it: vectors in a vec0 table whose name is in `meta`."""
    connection = connect(path, create=True)
    connection.execute(files("edge.store").joinpath("0001_index.sql").read_text(encoding="utf-8"))
    connection.execute("INSERT INTO migrations VALUES (1, '0001_index.sql', '2026-01-01')")
    meta = {"embedder": "embedder-1", "dim": str(dim), "chunker": "chunker-1", "terms": "1", "vectors": "chunks_vec_7"}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute(
        f"CREATE VIRTUAL TABLE chunks_vec_7 USING vec0(embedding float[{dim}] distance_metric=cosine, chunk_size=256)"
    )
    connection.execute("INSERT INTO documents VALUES (1, '/d/a', 'h', '{}', 'txt', 'A', 'en', '', '[]', 0, x'')")
    for ordinal, (id, vector) in enumerate(zip(ids, vectors, strict=True)):
        connection.execute("INSERT INTO chunks VALUES (?, 1, ?, 0, 0, '[]', NULL, 'text', 3, NULL)", (id, ordinal))
        connection.execute("INSERT INTO chunks_fts (rowid, terms) VALUES (?, 'some word here')", (id,))
        connection.execute("INSERT INTO chunks_vec_7 (rowid, embedding) VALUES (?, ?)", (id, vector.tobytes()))
    connection.close()


@pytest.fixture
def old(kit: Any) -> tuple[list[int], np.ndarray]:
    ids = sorted(np.random.default_rng(1).choice(np.arange(1, 5000), 700, replace=False).tolist())
    vectors = kit.vectors(len(ids))
    schema_1(kit.path, kit.dim, vectors, ids)
    return ids, vectors


def test_vectors_of_the_first_schema_come_along(kit: Any, old: tuple[list[int], np.ndarray]) -> None:
    ids, vectors = old
    query = kit.vectors(1)[0]
    with kit.open() as store:
        assert problems(store) == []
        found = status(store)
        assert (found.chunks, Searcher(store).statistics().mean_terms) == (700, 3)
        hits = dict(Searcher(store).exact(query, 700, Filter()))
        np.testing.assert_allclose([hits[id] for id in ids], vectors @ query, atol=1e-5)
        assert store._rows("SELECT name FROM sqlite_master WHERE name LIKE 'chunks_vec%'") == []
        kit.put(store, kit.document("/d/b", "new text"))  # ids go on after the old ones
        assert problems(store) == []


def test_a_migration_that_is_broken_off_has_not_begun(
    kit: Any, old: tuple[list[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(connection: Any) -> None:
        migrations.adopt_vec0(connection)
        raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setitem(migrations.AFTERWARDS, 2, broken)
        with pytest.raises(RuntimeError):
            kit.open()
    connection = connect(kit.path, create=False)
    assert migrations.applied(connection) == [1]
    assert connection.execute("SELECT count(*) FROM chunks_vec_7").get == 700
    connection.close()
    with kit.open() as store:
        assert problems(store) == []


def test_an_old_index_that_cannot_be_written_is_refused_and_says_why(
    kit: Any, old: tuple[list[int], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # root may write anywhere
        with pytest.raises(StoreMismatch, match=r"schema 1, needed here: 2.*writable"):
            Store.open(kit.path)
    kit.open().close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store.open(kit.path) as store:
        assert len(Searcher(store, exact_chunks=0).dense(kit.vectors(1)[0], 9, Filter())) == 9


def test_every_step_stands_in_the_folder_and_is_numbered() -> None:
    found = sorted(path.name for path in files("edge.store").iterdir() if path.name.endswith(".sql"))
    assert found == sorted(migrations.STEPS.values())
    assert list(migrations.STEPS) == list(range(1, len(found) + 1))
    assert all(name.startswith(f"{number:04}_") for number, name in migrations.STEPS.items())
