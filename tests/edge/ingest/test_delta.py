"""Deltas of an index: applied to the old one they make the new one; wherever they do not belong, nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import StoreError, StoreFull, StoreMismatch, UsageError
from edge.ingest import delta
from edge.ingest.delta import Head, apply, changes, make
from edge.store.chunks import Store
from edge.store.contents import digest_of, state_of
from edge.store.upkeep import compact, compact_where_it_pays, problems, status
from tests.edge.ingest.indexes import answers, open_index, put

WORDS = st.lists(st.sampled_from(["alpha", "beta", "pump", "reset", "button", "das", "ist", "GW-200"]), max_size=40)
TEXTS = st.builds(lambda words, times: " ".join(words) * times, WORDS, st.integers(1, 3))
DOCUMENTS = st.tuples(TEXTS, st.sampled_from(["en", "de"]), st.sampled_from(["", "In short: a pump."]))
Documents = dict[str, tuple[str, str, str]]  # source -> text, language, summary
INDEXES = st.dictionaries(st.sampled_from([f"/d/{letter}.txt" for letter in "abcdefgh"]), DOCUMENTS, max_size=8)


def fill(store: Store, documents: Documents) -> None:
    """Bring an index to these documents, changing what differs."""
    store.remove(set(store.known()) - set(documents))
    for source, (text, language, summary) in documents.items():
        put(store, source, text, language=language, summary=summary)


def made(old: Store, new: Store) -> tuple[Head, Callable[[], Iterator[bytes]]]:
    data: list[bytes] = []
    head = make(old, new, data.append)
    return head, lambda: iter(data)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store, Store]]:
    """Indexes that one example after the other fills: their rows get a history."""
    folder = tmp_path_factory.mktemp("three")
    with open_index(folder / "a.db") as a, open_index(folder / "b.db") as b, open_index(folder / "box.db") as box:
        yield a, b, box


@settings(max_examples=12, deadline=None)
@given(old=INDEXES, new=INDEXES)
def test_the_delta_applied_answers_as_the_new_index_does(
    three: tuple[Store, Store, Store], old: Documents, new: Documents
) -> None:
    """Also where the box came to the old documents another way, so that its rows have other ids."""
    a, b, box = three
    for store, documents in ((a, old), (b, new), (box, old)):
        fill(store, documents)
    if state_of(a) == state_of(b):
        with pytest.raises(UsageError, match="nothing to send"):
            made(a, b)
        return
    head, stream = made(a, b)
    assert made(a, b)[0] == head
    done = apply(box, head, stream)
    assert (done.was_applied, done.added, done.removed) == (False, len(new.keys() - old), len(old.keys() - new))
    assert answers(box) == answers(b)
    assert answers(box, exact_chunks=0) == answers(b, exact_chunks=0)
    assert digest_of(state_of(box)) == head.result == digest_of(state_of(b))
    assert [status(box).chunks, status(box).languages] == [status(b).chunks, status(b).languages]
    assert problems(box) == []
    assert apply(box, head, stream).was_applied


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """An index, and the next version of it: one document of three replaced, one removed, one added."""
    with open_index(tmp_path / "a.db") as a, open_index(tmp_path / "b.db") as b:
        for store in (a, b):
            for letter in "abc":
                put(store, f"/d/{letter}.txt", f"{letter} is as it was. " * 30)
        put(b, "/d/a.txt", "a was replaced. " * 25)
        b.remove(["/d/b.txt"])
        put(b, "/d/new.txt", "new has come. " * 35)
        yield a, b


def test_another_index_is_refused_unchanged(two: tuple[Store, Store]) -> None:
    a, b = two
    head, stream = made(a, b)
    put(a, "/d/a.txt", "a was changed here. " * 9)
    before = state_of(a)
    for others in (False, True):
        with pytest.raises(StoreMismatch, match=r"nothing was changed.*Make one with `edge index delta`"):
            apply(a, head, stream, others=others)
    assert state_of(a) == before


def test_documents_of_the_box_itself_stay_where_they_may(two: tuple[Store, Store]) -> None:
    a, b = two
    head, stream = made(a, b)
    put(a, "/own/notes.txt", "mine")
    with pytest.raises(StoreMismatch, match="say --others"):
        apply(a, head, stream)
    assert apply(a, head, stream, others=True).replaced == 1
    assert set(state_of(a).items()) - set(state_of(b).items()) == {("/own/notes.txt", state_of(a)["/own/notes.txt"])}
    assert apply(a, head, stream, others=True).was_applied
    with pytest.raises(StoreMismatch, match="in it already"):
        apply(a, head, stream)
    assert problems(a) == []


def test_half_of_the_changes_is_not_all_of_them(two: tuple[Store, Store]) -> None:
    a, b = two
    head, stream = made(a, b)
    a.remove(["/d/b.txt"])  # as the delta would, and nothing else of it
    with pytest.raises(StoreMismatch, match="nothing was changed"):
        apply(a, head, stream, others=True)


def test_other_embedders_and_chunkers_are_refused(two: tuple[Store, Store], tmp_path: Path) -> None:
    a, b = two
    head, stream = made(a, b)
    for name, told in (("embedder", {"fingerprint": "g"}), ("chunker", {"chunker": "d"})):
        with open_index(tmp_path / f"{name}.db", **told) as other:
            with pytest.raises(StoreMismatch, match=f"another {name}"):
                apply(other, head, stream)
            with pytest.raises(StoreMismatch, match=f"another {name}"):
                made(a, other)
    with pytest.raises(StoreMismatch, match="another terms"):
        apply(a, msgspec.structs.replace(head, terms="0"), stream)


@pytest.mark.parametrize("room", [1, 6])
def test_a_disk_that_fills_up_anywhere_changes_nothing(two: tuple[Store, Store], room: int) -> None:
    a, b = two
    put(b, "/d/large.txt", " ".join(f"word{n}" for n in range(3000)))
    head, stream = made(a, b)
    before = state_of(a)
    pages = a.connection.execute("PRAGMA page_count").get
    a.connection.execute(f"PRAGMA max_page_count = {pages + room}").get  # noqa: B018  .get fetches
    with pytest.raises(StoreFull, match="nothing was changed"):
        apply(a, head, stream)
    assert state_of(a) == before
    assert problems(a) == []
    a.connection.execute("PRAGMA max_page_count = 100000").get  # noqa: B018
    assert not apply(a, head, stream).was_applied
    assert answers(a) == answers(b)


def test_a_stream_that_ends_wrongly_undoes_all(two: tuple[Store, Store]) -> None:
    a, b = two
    head, stream = made(a, b)
    data, before = b"".join(stream()), state_of(a)
    wrong = [data[:-1], data[: len(data) // 2], data + b"\0", data[:40] + b"\xff" + data[41:], b""]
    for one in wrong:
        with pytest.raises(StoreError, match="stream of changes is damaged"):
            apply(a, head, lambda one=one: iter([one]))  # type: ignore[misc]
        assert state_of(a) == before

    def raising() -> Iterator[bytes]:
        yield data
        raise StoreError("the file was changed while it was read")

    with pytest.raises(StoreError, match="while it was read"):
        apply(a, head, raising)
    with pytest.raises(StoreError, match="does not give what it says"):
        apply(a, msgspec.structs.replace(head, result="0" * 64), stream)
    assert state_of(a) == before


def test_frames_that_lie_are_refused(two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two
    head, stream = made(a, b)
    monkeypatch.setattr(delta, "MAX_FRAME_BYTES", 64)
    with pytest.raises(StoreError, match="damaged"):
        list(changes(stream()))
    monkeypatch.undo()
    found = [one for one in changes(stream()) if one.content is not None]
    content = found[0].content
    assert content is not None
    far = msgspec.structs.replace(content.chunks[0], end=10**6)
    for lie in (
        msgspec.structs.replace(found[0], vectors=b""),
        msgspec.structs.replace(found[0], content=msgspec.structs.replace(content, chunks=(far, *content.chunks[1:]))),
        msgspec.structs.replace(found[0], content=msgspec.structs.replace(content, blocks="{")),
    ):
        with pytest.raises(StoreError, match="damaged"):
            delta._put(a, lie, head.dim)
    assert problems(a) == []


def test_holes_are_given_back_where_that_pays(two: tuple[Store, Store]) -> None:
    a, _ = two
    for number in range(90):
        put(a, f"/many/{number}.txt", f"number {number} of many. " * 60)
    compact(a)
    size = a.path.stat().st_size
    a.remove([f"/many/{number}.txt" for number in range(2)])
    assert (compact_where_it_pays(a), a.path.stat().st_size) == (0, size)
    a.remove([f"/many/{number}.txt" for number in range(85)])
    before = answers(a)
    assert status(a).compact_pays
    assert compact_where_it_pays(a) > size // 2
    assert answers(a) == before
    assert not status(a).compact_pays
