"""The index: a document's rows appear, change and vanish together; what made it is checked; its size is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import lexical
from edge.errors import StoreCorrupt, StoreError, StoreMismatch, StoreMissing, UsageError
from edge.store.chunks import Identity, Store
from edge.store.filters import Filter
from edge.store.search import Searcher
from edge.store.upkeep import compact, problems, status
from edge.types import Chunk


def test_a_document_comes_back_as_it_was_stored(kit: Any) -> None:
    stored = kit.document("/d/a.md", "Grüße — første avsnitt.\n\nSecond paragraph. " * 3000, tags=("pump", "æ"))
    with kit.open() as store:
        kit.put(store, stored)
        assert store.document("/d/a.md") == stored
        assert store.document("/d/none.md") is None


@pytest.mark.parametrize("span", [(0, 5), (8190, 8200), (8192, 8193), (16380, 24580), (0, 0), (99990, 100000)])
def test_a_span_is_read_from_its_pieces(kit: Any, span: tuple[int, int]) -> None:
    text = "".join(chr(0x100 + i % 500) for i in range(100_000))
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", text))
        assert store.text(1, *span) == text[slice(*span)]


def test_replacing_leaves_nothing_of_the_old_content(kit: Any) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "The password is hunter. " * 40))
        kit.put(store, kit.document("/d/a.txt", "The password is rotated. " * 10))
        searcher = Searcher(store)
        assert searcher.lexical(["hunter"], 9, Filter()) == []
        assert len(searcher.lexical(["rotat"], 99, Filter())) == status(store).chunks
        assert problems(store) == []


def test_removing_counts_and_leaves_the_others(kit: Any) -> None:
    with kit.open() as store:
        for name in "abc":
            kit.put(store, kit.document(f"/d/{name}.txt", f"content of {name}"))
        assert store.remove(["/d/a.txt", "/d/c.txt", "/d/none.txt"]) == 2
        assert list(store.known()) == ["/d/b.txt"]
        assert problems(store) == []


def test_a_failure_in_the_middle_changes_nothing(kit: Any) -> None:
    def broken() -> object:
        yield ["one"]
        raise RuntimeError("stop")

    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "first content"))
        changed = kit.document("/d/a.txt", "second content, longer")
        chunks = [Chunk(0, 0, 5, changed.text[:5]), Chunk(1, 5, 9, changed.text[5:9])]
        with pytest.raises(RuntimeError):
            store.replace(changed, chunks, kit.vectors(2), broken())  # type: ignore[arg-type]
        kept = store.document("/d/a.txt")
        assert kept is not None and kept.text == "first content"
        assert problems(store) == []


def test_vectors_must_fit_the_chunks(kit: Any) -> None:
    with kit.open() as store:
        one = kit.document("/d/a.txt", "text")
        chunks = [Chunk(0, 0, 4, "text")]
        with pytest.raises(ValueError, match="dimension"):
            store.replace(one, chunks, np.zeros((1, kit.dim + 1), np.float32), [["text"]])
        with pytest.raises(ValueError, match="not finite"):
            store.replace(one, chunks, np.full((1, kit.dim), np.nan, np.float32), [["text"]])
        assert status(store).documents == 0


def test_the_churn_of_replacing_everything_holds_the_size(kit: Any) -> None:
    """Twenty rounds of edits that keep the documents' sizes; nobody calls compact."""
    sizes = np.random.default_rng(5).integers(1, 60, size=30)
    texts = [f"some words of text {number}. " * int(size) for number, size in enumerate(sizes)]
    churn(kit, [texts])
    first = kit.path.stat().st_size
    churn(kit, [[text.replace("words", f"word{round_}") for text in texts] for round_ in range(20)])
    assert kit.path.stat().st_size <= first * 1.25


def test_churn_that_changes_sizes_reaches_a_bound(kit: Any) -> None:
    """Slots of vectors are freed and taken all the time: after some rounds the file grows no more."""
    sizes = np.random.default_rng(5).integers(1, 60, size=(20, 30))
    rounds = [["some words of text. " * int(size) for size in row] for row in sizes]
    churn(kit, rounds[:8])
    first = kit.path.stat().st_size
    churn(kit, rounds[8:])
    assert kit.path.stat().st_size <= first * 1.1
    with kit.open() as store:
        assert status(store).holes <= status(store).chunks // 2 + 256


def churn(kit: Any, rounds: list[list[str]]) -> None:
    for texts in rounds:
        with kit.open() as store:
            for number, text in enumerate(texts):
                kit.put(store, kit.document(f"/d/{number}.txt", text))
            assert problems(store) == []


def test_deleting_most_documents_gives_slots_back_without_compact(kit: Any) -> None:
    with kit.open() as store:
        for number in range(60):
            kit.put(store, kit.document(f"/d/{number}.txt", "some words of text. " * 60))
        before = status(store)
        store.remove([f"/d/{number}.txt" for number in range(60) if number % 10])
        after = status(store)
        assert after.holes <= after.chunks // 2 + 256 < before.chunks
        nearest = Searcher(store).dense(kit.vectors(1)[0], 99, Filter())
        assert len(nearest) == min(99, after.chunks)
        assert problems(store) == []


def test_compact_shrinks_the_file_and_keeps_every_vector(kit: Any) -> None:
    with kit.open() as store:
        for number in range(40):
            kit.put(store, kit.document(f"/d/{number}.txt", f"number {number} " * 300))
        store.remove([f"/d/{number}.txt" for number in range(38)])
        query = kit.vectors(1)[0]
        before, nearest = status(store), Searcher(store).dense(query, 50, Filter())
        assert before.compact_pays
        gained = compact(store)
        after = status(store)
        assert gained > 2**17 and after.bytes < before.bytes / 2 and not after.compact_pays
        assert Searcher(store).dense(query, 50, Filter()) == nearest
        assert problems(store) == []


def test_status_counts(kit: Any) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "one"))
        kit.put(store, kit.document("/d/b.csv", "zwei", language="de", type="csv"))
        found = status(store)
    assert (found.documents, found.chunks, found.languages, found.types) == (
        2,
        2,
        {"de": 1, "en": 1},
        {"csv": 1, "txt": 1},
    )
    assert (found.embedder, found.dim, found.chunker) == ("embedder-1", kit.dim, "chunker-1")
    assert found.bytes >= (kit.path).stat().st_size


# -- what made the index


@pytest.mark.parametrize(
    ("expected", "named"),
    [
        ({"fingerprint": "embedder-2"}, "embedder-2"),
        ({"fingerprint": "embedder-1", "dim": 64}, "dimension"),
        ({"chunker": "chunker-2"}, "chunker-2"),
    ],
)
def test_another_configuration_is_refused(kit: Any, expected: dict[str, object], named: str) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "one"))
    with pytest.raises(StoreMismatch, match="edge index rebuild") as refused:
        Store.open(kit.path, **expected)  # type: ignore[arg-type]
    assert named in str(refused.value)
    with pytest.raises(StoreMismatch):
        Store.open(kit.path, create=True, **{**kit.identity, **expected})  # type: ignore[arg-type]
    with Store.open(kit.path) as store:  # with nothing expected it opens: for status and rebuild
        assert status(store).documents == 1


def test_other_term_rules_are_refused(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.open().close()
    monkeypatch.setattr(lexical, "VERSION", "other")
    with pytest.raises(StoreMismatch, match="term rules"):
        kit.open()


def test_reset_takes_vectors_of_another_dimension(kit: Any) -> None:
    with kit.open() as store:
        one = kit.document("/d/a.txt", "one two")
        kit.put(store, one)
        with store.transaction():
            store.reset(Identity("embedder-2", 4, "chunker-2"))
            store.replace(one, [Chunk(0, 0, 7, "one two")], np.eye(1, 4, dtype=np.float32), [["one", "two"]])
        assert problems(store) == []
    with Store.open(kit.path, fingerprint="embedder-2", dim=4, chunker="chunker-2") as store:
        assert [id for id, _ in Searcher(store).dense(np.eye(1, 4, dtype=np.float32)[0], 5, Filter())] == [1]


def test_a_reset_that_is_not_finished_leaves_the_old_index(kit: Any) -> None:
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", "one two"))
        with pytest.raises(RuntimeError), store.transaction():
            store.reset(Identity("embedder-2", 4, "chunker-2"))
            raise RuntimeError("stop")
        assert problems(store) == []
    with kit.open() as store:
        assert len(Searcher(store).dense(kit.vectors(1)[0], 5, Filter())) == 1


# -- files that are no usable index


def test_no_index_is_missing(tmp_path: Path, kit: Any) -> None:
    with pytest.raises(StoreMissing, match="edge ingest"):
        Store.open(kit.path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_index_needs_its_identity(kit: Any) -> None:
    with pytest.raises(UsageError):
        Store.open(kit.path, create=True)


def test_a_file_that_is_no_database(kit: Any) -> None:
    (kit.path).write_text("These are notes and no database, and there are a few of them. " * 100)
    with pytest.raises(StoreCorrupt, match="not an index"):
        Store.open(kit.path)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(tmp_path)


def test_someone_elses_database(kit: Any) -> None:
    import apsw

    other = apsw.Connection(str(kit.path))
    other.execute("CREATE TABLE machines (id)")
    other.close()
    with pytest.raises(StoreMismatch, match="no index"):
        kit.open()


def test_an_index_of_a_newer_version(kit: Any) -> None:
    with kit.open() as store:
        store.connection.execute("INSERT INTO migrations VALUES (99, '0099_new.sql', 'today')")
    with pytest.raises(StoreMismatch, match="newer version"):
        kit.open()


def test_all_terms_are_found(kit: Any) -> None:
    """What the lexical arm makes of a text is what FTS5 finds again, marks of identifiers included."""
    text = "Error E-17 at 192.168.1.1 on GW-200: Gerät ausgefallen, blåbær, 東京タワー, हिन्दी, don't"
    with kit.open() as store:
        kit.put(store, kit.document("/d/a.txt", text))
        searcher = Searcher(store)
        for term in lexical.terms(text, "en"):
            assert searcher.lexical([term], 5, Filter()) == [1], term
        assert searcher.frequencies([("e17",), ("error", "e"), ("e", "error")]) == {
            ("e17",): 1, ("error", "e"): 1, ("e", "error"): 0,
        }  # fmt: skip
