"""A release with another embedder: the box serves what it served until the new index is whole; both change at once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.box import Box, default_bundle
from edge.bundle import embedder_fingerprint
from edge.cli.deploy import deploy, releases
from edge.config import ChunkConfig, EdgeConfig, IngestConfig
from edge.deploy.indexes import served_index
from edge.deploy.links import CURRENT, NEXT, PREVIOUS, served, target_of, waiting
from edge.deploy.pack import Extras, add_signature, pack
from edge.deploy.reindex import advance, finish, look
from edge.deploy.releases import rollback
from edge.embed import OnnxEmbedder
from edge.errors import DeployError
from edge.files import sha256_file
from edge.ingest.index import Indexer, IngestReport
from edge.store.chunks import Store
from edge.store.place import beside
from edge.store.upkeep import problems
from edge.types import Block, Document
from tests.edge.deploy.made import NOW, FakeHost, Recorder, Shop, check_clean, snapshot
from tests.fakes import manifest_of, write_bundle, write_seal, write_tiny_embedder

CONFIG = EdgeConfig()
WORDS = ("alpha", "beta", "gamma", "delta")


class Boxes:
    """A box with four documents, embedded by the first of two embedders; releases are numbered."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder)
        self.root, self.documents = self.shop.root, folder / "documents"
        self.documents.mkdir()
        for word in WORDS:
            (self.documents / f"{word}.txt").write_text(f"{word} {word} {word}.")
        self.installed = self.install(1, "first")
        self.ingest()

    def bundle(self, number: int, embedder: str) -> Path:
        folder = self.shop.folder / f"bundle{number}"
        write_bundle(folder)
        for name in ("model.onnx", "model.onnx.data", "tokenizer.json"):
            (folder / "embedder" / name).unlink()
        write_tiny_embedder(folder / "embedder")
        (folder / "NOTICE.md").write_text(f"{number}")
        prefix = {"first": "query: ", "second": "alpha "}[embedder]
        manifest = manifest_of(folder)
        section = dataclasses.replace(manifest.embedder, document_prefix=prefix, fingerprint="")
        hashes = {name.rpartition("/")[2]: one.sha256 for name, one in manifest.files.items() if "embedder/" in name}
        section = dataclasses.replace(section, fingerprint=embedder_fingerprint(hashes, section))
        write_seal(folder, dataclasses.replace(manifest, embedder=section, version=f"{number}.0.0"))
        return folder

    def archive(self, number: int, embedder: str, index: Path | None = None) -> Path:
        out = self.shop.folder / f"{number}.edge"
        pack(self.bundle(number, embedder), out, Extras(index=index))
        add_signature(out, self.shop.key, number, NOW)
        return out

    def install(self, number: int, embedder: str, index: Path | None = None, **more: object):  # type: ignore[no-untyped-def]
        return self.shop.install(self.archive(number, embedder, index), **more)  # type: ignore[arg-type]

    def ingest(self) -> None:
        """What `edge ingest --prune` does, without a process for the parsers."""
        with self.box() as box:
            fill(box, self.documents)

    def box(self) -> Box:
        """What a command opens now."""
        return Box.open(bundle=None, index=None, config=None)

    def check(self, number: int, *, index: str) -> None:
        """The box answers with this release and this index, and all documents are found."""
        with self.box() as box:
            assert box.bundle.manifest.version == f"{number}.0.0"
            assert box.index_path == self.root / index
            for file in self.documents.iterdir():
                hits = box.retrieve(file.stem)
                assert hits and hits[0].document == str(file)
            assert problems(box.store) == []


def fill(box: Box, folder: Path) -> None:
    store = box.open_store(create=True)
    indexer, known = Indexer(store, box.embedder, CONFIG.ingest.chunk, IngestReport()), store.known()
    for file in sorted(folder.iterdir()):
        text, sha256 = file.read_text(), sha256_file(file)
        if str(file) not in known or known[str(file)].sha256 != sha256:
            blocks = (Block(0, len(text)),)
            indexer.put(Document(str(file), sha256, "txt", file.stem, text, blocks, "en", "2026-01-02"), "{}")
    store.remove(set(known) - {str(file) for file in folder.iterdir()})


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boxes]:
    monkeypatch.setenv("EDGE_HOME", str(tmp_path / "box"))
    yield Boxes(tmp_path)


def own_name(boxes: Boxes) -> str:
    """The file of the index that the waiting or current release has beside index.db."""
    (found,) = boxes.root.glob("index-*.db")
    return found.name


def test_the_same_embedder_keeps_the_index(boxes: Boxes) -> None:
    before = (boxes.root / "index.db").read_bytes()
    assert not boxes.install(2, "first").waits
    assert (boxes.root / "index.db").read_bytes() == before
    boxes.check(2, index="index.db")


def test_another_embedder_waits_and_then_both_change(boxes: Boxes) -> None:
    done = boxes.install(2, "second")
    assert done.waits
    assert look(boxes.root).done == 0
    boxes.check(1, index="index.db")
    step = advance(boxes.root, CONFIG, seconds=0)
    assert (step.done, step.total, step.is_whole) == (1, 4, False)  # one, however little time there is
    assert finish(boxes.root) is None
    boxes.check(1, index="index.db")
    (boxes.documents / "passage.txt").write_text("passage passage.")  # documents change meanwhile
    (boxes.documents / "beta.txt").write_text("beta query.")
    (boxes.documents / "gamma.txt").unlink()
    boxes.ingest()
    assert advance(boxes.root, CONFIG).is_whole
    boxes.check(1, index="index.db")
    (boxes.documents / "alpha.txt").write_text("alpha alpha again.")
    boxes.ingest()
    assert finish(boxes.root) is None, "a document has changed since"
    assert advance(boxes.root, CONFIG).is_whole
    target, _ = finish(boxes.root) or ("", [])
    assert (target_of(boxes.root, CURRENT), waiting(boxes.root)) == (target, None)
    boxes.check(2, index=own_name(boxes))
    boxes.ingest()
    check_clean(boxes.root)
    assert finish(boxes.root) is None


def test_back_and_forth_at_once(boxes: Boxes) -> None:
    boxes.install(2, "second")
    advance(boxes.root, CONFIG)
    finish(boxes.root)
    second = own_name(boxes)
    (boxes.documents / "passage.txt").write_text("passage")
    boxes.ingest()
    assert rollback(boxes.root) == target_of(boxes.root, CURRENT)
    (boxes.documents / "passage.txt").unlink()  # the first index does not know it yet
    boxes.check(1, index="index.db")
    assert rollback(boxes.root) == target_of(boxes.root, CURRENT)
    with boxes.box() as box:
        assert box.index_path.name == second
        assert [hit.document for hit in box.retrieve("passage")][:1] == [str(boxes.documents / "passage.txt")]


def test_indexes_that_no_release_here_needs_are_removed(boxes: Boxes) -> None:
    first = target_of(boxes.root, CURRENT)
    boxes.install(2, "second")
    advance(boxes.root, CONFIG)
    finish(boxes.root)
    done = boxes.install(3, "second")
    assert (done.waits, done.removed) == (False, ("index.db",))  # the first release is neither current nor previous
    boxes.check(3, index=own_name(boxes))
    assert first is not None
    assert rollback(boxes.root, to=first.split("/")[1][:12]) == target_of(boxes.root, NEXT)
    boxes.check(3, index=own_name(boxes))
    assert advance(boxes.root, CONFIG).is_whole
    finish(boxes.root)
    with boxes.box() as box:
        boxes.check(1, index=box.index_path.name)
        assert box.index_path == beside(boxes.root, box.bundle.manifest.embedder.fingerprint)


@pytest.mark.parametrize("how", ["rollback", "install"])
def test_what_is_asked_for_later_wins(boxes: Boxes, how: str) -> None:
    boxes.install(2, "first")
    boxes.install(3, "second")
    advance(boxes.root, CONFIG)
    half = own_name(boxes)
    rollback(boxes.root) if how == "rollback" else boxes.install(4, "first")
    assert target_of(boxes.root, NEXT) is None
    assert advance(boxes.root, CONFIG).target is None
    boxes.check(1 if how == "rollback" else 4, index="index.db")
    if how == "install":
        assert not (boxes.root / half).exists()


def test_an_index_in_the_archive_saves_embedding(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that it has as they are here are taken from it; it is not written to."""
    other = boxes.shop.folder / "prebuilt.db"
    bundle = boxes.bundle(7, "second")
    with Box(bundle, other, CONFIG) as box:
        fill(box, boxes.documents)
    shutil.rmtree(bundle)
    (boxes.documents / "beta.txt").write_text("beta query.")
    boxes.ingest()
    boxes.install(2, "second", other)
    embedded: list[str] = []
    real = OnnxEmbedder.embed_documents
    monkeypatch.setattr(
        OnnxEmbedder, "embed_documents", lambda self, texts: (embedded.extend(texts), real(self, texts))[1]
    )
    release = boxes.root / Path(str(waiting(boxes.root))).parent
    before = snapshot(release)
    assert advance(boxes.root, CONFIG).is_whole
    assert snapshot(release) == before
    assert [text.split()[-2:] for text in embedded] == [["beta", "query."]]
    finish(boxes.root)
    monkeypatch.undo()
    monkeypatch.setenv("EDGE_HOME", str(boxes.root))
    boxes.check(2, index=own_name(boxes))


def test_one_begun_under_another_chunker_is_begun_anew(boxes: Boxes) -> None:
    boxes.install(2, "second")
    other = EdgeConfig(ingest=IngestConfig(chunk=ChunkConfig(99, 9)))
    advance(boxes.root, other, seconds=0)
    assert advance(boxes.root, CONFIG).is_whole
    with Store.open(boxes.root / own_name(boxes)) as store:
        assert store.identity.chunker.endswith(
            f":{CONFIG.ingest.chunk.max_tokens}:{CONFIG.ingest.chunk.overlap_tokens}"
        )


def test_an_index_that_somebody_writes_to_is_waited_for(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes.install(2, "second")
    advance(boxes.root, CONFIG)
    monkeypatch.setattr("edge.store.connect.BUSY_TIMEOUT_SEC", 0.05)
    said = r"another process is writing.*The box serves release"
    with Store.open(boxes.root / "index.db") as store, store.transaction(), pytest.raises(DeployError, match=said):
        finish(boxes.root)
    boxes.check(1, index="index.db")
    assert finish(boxes.root) is not None


def test_each_operation_of_the_switch_failing_leaves_the_old_pair(boxes: Boxes) -> None:
    boxes.install(2, "second")
    advance(boxes.root, CONFIG)
    links = {link: target_of(boxes.root, link) for link in (CURRENT, PREVIOUS, NEXT)}

    def fails_at(number: int) -> Callable[[int, str], None]:
        def fails(count: int, kind: str) -> None:
            if count == number:
                raise OSError(5, "Input/output error")

        return fails

    for number in itertools.count():
        try:
            finish(boxes.root, disk=Recorder(fails_at(number)))
            break
        except DeployError:
            assert {link: target_of(boxes.root, link) for link in links} == links
            boxes.check(1, index="index.db")
    assert number >= 8
    boxes.check(2, index=own_name(boxes))


def test_a_cut_between_the_links_leaves_a_pair_that_fits(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is on the disk after any operation: the bundle that `current` names has its index."""
    boxes.install(2, "second")
    advance(boxes.root, CONFIG)

    class Looking(Recorder):
        def sync(self, path: Path) -> None:
            super().sync(path)
            if path == boxes.root:
                with boxes.box() as box:
                    seen.append(box.bundle.manifest.version)
                    assert box.store.identity.embedder == box.bundle.manifest.embedder.fingerprint

    seen: list[str] = []
    finish(boxes.root, disk=Looking())
    assert seen[0] == "1.0.0"
    assert seen[-1] == "2.0.0"
    (boxes.root / NEXT).symlink_to(str(target_of(boxes.root, CURRENT)))  # cut off before the last step
    assert waiting(boxes.root) is None
    assert advance(boxes.root, CONFIG).target is None


def test_as_a_person_sees_it(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command, *arguments: str):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(command, list(arguments), catch_exceptions=False)

    host = FakeHost()
    host.settings = CONFIG  # type: ignore[attr-defined]
    monkeypatch.setattr("edge.deploy.host.ThisHost", lambda *_: host)
    assert run(deploy, "reindex").stdout == "no release waits for its index\n"
    done = run(deploy, "install", str(boxes.archive(2, "second")))
    assert "waits for its index" in done.stdout
    assert "run `edge deploy reindex`" in done.stderr
    assert "0 of 4 documents" in run(deploy, "status").stdout
    assert json.loads(run(deploy, "status", "--json").stdout)["next"]["total"] == 4
    assert [line.split()[1] for line in run(releases).stdout.splitlines()] == ["current", "next"]
    assert "is served" in run(deploy, "reindex").stdout
    assert [line.split()[1] for line in run(releases).stdout.splitlines()] == ["previous", "current"]
    assert default_bundle() == (boxes.root / str(served(boxes.root))).resolve()
    assert served_index(boxes.root) == boxes.root / own_name(boxes)
    assert (boxes.root / "index.db").exists()
