"""The straight path of documents: what is new, changed, unchanged, gone or broken, and that only that is touched."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.config import ChunkConfig, IngestConfig
from edge.errors import StoreFull, UsageError
from edge.ingest.index import IngestReport, Progress, chunker_id, ingest, rebuild
from edge.store.chunks import Identity, Store
from edge.store.filters import Filter
from edge.store.search import Searcher
from edge.store.upkeep import problems, status

CONFIG = IngestConfig(chunk=ChunkConfig(30, 5))


class Embedder:
    """A vector per text that has nothing to do with its meaning; remembers what it was given."""

    def __init__(self, dim: int = 8) -> None:
        self.dim = dim
        self.seen: list[str] = []

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        vector = np.random.default_rng(seed).normal(size=self.dim).astype(np.float32)
        return vector / np.linalg.norm(vector)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class Bench:
    """A folder of documents, an index beside it, and `run` to bring the one into the other."""

    def __init__(self, tmp_path: Path) -> None:
        self.docs = tmp_path / "docs"
        self.docs.mkdir()
        self.index = tmp_path / "index.db"
        self.embedder = Embedder()

    def open(self) -> Store:
        chunker = chunker_id(CONFIG.chunk)
        return Store.open(self.index, create=True, fingerprint="f", dim=self.embedder.dim, chunker=chunker)

    def run(self, *paths: Path, **options: Any) -> IngestReport:
        with self.open() as store:
            report = ingest(paths or (self.docs,), store, self.embedder, CONFIG, **options)
            assert problems(store) == []
        return report

    def write(self, name: str, text: str) -> Path:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def sources(self) -> list[str]:
        with self.open() as store:
            return [os.path.relpath(source, self.docs) for source in store.known()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.added, report.replaced, report.unchanged, report.removed, len(report.failed)


def test_only_what_changed_is_embedded_again(bench: Bench) -> None:
    bench.write("a.txt", "Alpha is the first document.")
    bench.write("sub/b.md", "# Beta\n\nThe second document.")
    assert counts(bench.run()) == (2, 0, 0, 0, 0)
    bench.embedder.seen.clear()
    assert counts(bench.run()) == (0, 0, 2, 0, 0)
    assert bench.embedder.seen == []
    bench.write("a.txt", "Alpha was corrected.")
    report = bench.run()
    assert counts(report) == (0, 1, 1, 0, 0)
    assert [text for text in bench.embedder.seen if "corrected" in text] == bench.embedder.seen != []
    assert report.chunks == len(bench.embedder.seen) and report.chunks_per_sec > 0 and report.seconds > 0


def test_a_touched_file_is_unchanged(bench: Bench) -> None:
    path = bench.write("a.txt", "Alpha is the first document.")
    bench.run()
    os.utime(path, (1, 1))
    assert counts(bench.run()) == (0, 0, 1, 0, 0)


def test_other_settings_make_a_changed_document(bench: Bench) -> None:
    bench.write("a.txt", "Pumpe und Ventil.")
    bench.run(language="en")
    assert counts(bench.run(language="de")) == (0, 1, 0, 0, 0)
    assert counts(bench.run(language="de", tags=("pump",))) == (0, 1, 0, 0, 0)
    assert counts(bench.run(language="de", tags=("pump",))) == (0, 0, 1, 0, 0)
    with bench.open() as store:
        document = store.document(str(bench.docs / "a.txt"))
        assert document is not None and (document.language, document.tags) == ("de", ("pump",))


def test_prune_removes_what_is_gone_under_the_given_paths_only(bench: Bench) -> None:
    for name in ("keep/a.txt", "keep/b.txt", "other/c.txt", "keeper/d.txt"):
        bench.write(name, f"Content of {name}.")
    bench.run()
    for name in ("keep/b.txt", "other/c.txt", "keeper/d.txt"):
        (bench.docs / name).unlink()
    assert counts(bench.run()) == (0, 0, 1, 0, 0)
    assert len(bench.sources()) == 4
    assert counts(bench.run(bench.docs / "keep", prune=True)) == (0, 0, 1, 1, 0)
    assert bench.sources() == ["keep/a.txt", "keeper/d.txt", "other/c.txt"]
    assert counts(bench.run(prune=True)) == (0, 0, 1, 2, 0)


def test_the_same_content_under_two_paths_is_two_documents(bench: Bench) -> None:
    bench.write("a.txt", "The very same content.")
    bench.write("b.txt", "The very same content.")
    assert counts(bench.run()) == (2, 0, 0, 0, 0)
    (bench.docs / "a.txt").unlink()
    assert counts(bench.run(prune=True)) == (0, 0, 1, 1, 0)
    assert bench.sources() == ["b.txt"]


def test_a_broken_document_is_reported_keeps_its_old_content_and_the_rest_goes_on(bench: Bench) -> None:
    bench.write("a.txt", "Alpha is the first document.")
    bench.write("m.json", '{"key": "the old value"}')
    bench.write("z.txt", "Omega is the last document.")
    bench.run()
    bench.write("m.json", '{"key": ')
    bench.write("z.txt", "Omega was changed.")
    report = bench.run(prune=True)
    assert counts(report) == (0, 1, 1, 0, 1)
    assert report.failed[0][0].endswith("m.json") and "m.json" in report.failed[0][1]
    with bench.open() as store:
        kept = store.document(str(bench.docs / "m.json"))
        assert kept is not None and "the old value" in kept.text


def test_a_missing_path_is_an_error_before_anything_happens(bench: Bench) -> None:
    path = bench.write("a.txt", "Alpha.")
    with pytest.raises(UsageError, match="no such"):
        bench.run(path, bench.docs / "none.txt")
    assert bench.sources() == []


def test_tables_of_a_database_come_and_go(bench: Bench) -> None:
    path = bench.docs / "plant.db"
    database = sqlite3.connect(path)
    database.executescript(
        "create table pumps (name, state); insert into pumps values ('P1', 'on');"
        "create table valves (name, state); insert into valves values ('V1', 'shut');"
    )
    assert counts(bench.run()) == (2, 0, 0, 0, 0)
    assert bench.sources() == ["plant.db#pumps", "plant.db#valves"]
    database.executescript("insert into pumps values ('P2', 'off')")
    assert counts(bench.run()) == (0, 1, 1, 0, 0)
    database.executescript("drop table valves")
    assert counts(bench.run()) == (0, 0, 1, 1, 0)
    database.close()
    path.unlink()
    assert counts(bench.run(prune=True)) == (0, 0, 0, 1, 0)


def test_the_index_does_not_ingest_itself(bench: Bench) -> None:
    bench.index = bench.docs / "index.db"
    bench.write("a.txt", "Alpha.")
    assert counts(bench.run()) == (1, 0, 0, 0, 0)
    assert counts(bench.run()) == (0, 0, 1, 0, 0)


def test_summaries_are_chunks_that_are_found(bench: Bench) -> None:
    text = "\n\n".join(f"Paragraph {n} tells of the valve number {n} and of its state in the plant." for n in range(20))
    bench.write("a.txt", text)
    bench.run(summaries=True)
    with bench.open() as store:
        searcher = Searcher(store)
        found = searcher.found(searcher.lexical(["valv"], 99, Filter()))
        made = [one.chunk for one in found.values() if one.chunk.kind == "summary"]
        assert len(made) == 1 and "valve" in made[0].text
        assert (made[0].start, made[0].end) == (0, len(text))
    assert counts(bench.run()) == (0, 1, 0, 0, 0)


def test_progress_tells_where_it_stands(bench: Bench) -> None:
    for name in "abc":
        bench.write(f"{name}.txt", f"Content of {name}. " * 20)
    steps: list[Progress] = []
    bench.run(on_progress=steps.append)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[0].done == 0 and steps[-1].done == 3 and {step.total for step in steps} == {3}
    assert steps[-1].chunks == len(bench.embedder.seen) and steps[-1].chunks_per_sec > 0


def test_what_was_done_before_a_full_disk_stays_and_the_next_run_goes_on(bench: Bench) -> None:
    for number in range(6):
        bench.write(f"{number}.txt", f"Document {number}. " + " ".join(f"word{number}x{n}" for n in range(2500)))
    with bench.open() as store:
        pages = store.connection.execute("PRAGMA page_count").get
        store.connection.execute(f"PRAGMA max_page_count = {pages + 60}").get  # noqa: B018  .get fetches
        with pytest.raises(StoreFull):
            ingest([bench.docs], store, bench.embedder, CONFIG)
        done = len(store.known())
        assert 0 < done < 6
        assert problems(store) == []
    assert counts(bench.run()) == (6 - done, 0, done, 0, 0)


# -- rebuild


def test_a_rebuild_needs_no_sources_and_takes_another_embedder(bench: Bench) -> None:
    bench.write("a.md", "# Pumps\n\nThe pump is on.\n\n# Valves\n\nThe valve is shut.")
    path = bench.write("b.csv", "code,meaning\nE-17,low voltage\n")
    bench.run(tags=("plant",))
    with bench.open() as store:
        before = {source: store.document(source) for source in store.known()}
    path.unlink()
    other, config = Embedder(12), IngestConfig(chunk=ChunkConfig(60, 5))
    identity = Identity("g", 12, chunker_id(config.chunk))
    with Store.open(bench.index) as store:
        report = rebuild(store, other, config, identity)
        assert (report.replaced, report.chunks) == (2, len(other.seen))
        assert {source: store.document(source) for source in store.known()} == before
        assert problems(store) == []
    with Store.open(bench.index, fingerprint="g", dim=12, chunker=identity.chunker) as store:
        assert status(store).chunks == len(other.seen)
        nearest = Searcher(store).dense(other.embed_query(other.seen[0]), 1, Filter())
        assert nearest[0][1] == pytest.approx(1, abs=1e-5)
        assert all(json.loads(one.settings)["tags"] == ["plant"] for one in store.known().values())


def test_a_rebuild_that_fails_leaves_the_old_index(bench: Bench) -> None:
    class Failing(Embedder):
        def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if self.seen:
                raise KeyboardInterrupt
            return super().embed_documents(texts)

    bench.write("a.txt", "Alpha is on.")
    bench.write("b.txt", "Beta is off.")
    bench.run()
    with bench.open() as store:
        before = status(store)
        with pytest.raises(KeyboardInterrupt):
            rebuild(store, Failing(12), CONFIG, Identity("g", 12, "c"))
        assert problems(store) == []
        assert store.identity.embedder == "f"
        assert status(store).chunks == before.chunks
    assert counts(bench.run()) == (0, 0, 2, 0, 0)
