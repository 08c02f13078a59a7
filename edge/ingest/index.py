"""The straight path of documents: file -> Document -> chunks -> vectors -> one transaction per document.

A kill at any point leaves every document wholly in the index or wholly out of it; the next ingest goes on from there,
because what is already in is recognised by its hash.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge import lexical
from edge.config import ChunkConfig, IngestConfig
from edge.errors import DocumentError
from edge.files import sha256_file
from edge.ingest import chunk as chunker
from edge.ingest.formats import type_of
from edge.ingest.read import Reader, discover
from edge.ingest.summary import summarise
from edge.store.chunks import Identity, Known, Store
from edge.types import Chunk, Document

EMBEDDED_AT_ONCE = 64  # chunks between two reports of progress


class DocumentEmbedder(Protocol):
    """What indexing needs of an embedder."""

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_tokens(self, text: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an ingest or a rebuild stands."""

    source: str  # what is being read or embedded
    done: int  # sources finished
    total: int
    chunks: int  # embedded so far
    chunks_per_sec: float


@dataclass
class IngestReport:
    """What an ingest did; sources are counted, a database as one per table."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # source and what is wrong with it
    skipped: list[str] = field(default_factory=list)  # files in folders for which there is no reader
    chunks: int = 0  # embedded
    chunks_per_sec: float = 0.0  # over the time spent embedding
    seconds: float = 0.0


OnProgress = Callable[[Progress], None]


def chunker_id(config: ChunkConfig) -> str:
    """What the index records of the chunker: chunks of two of these must not be mixed."""
    return f"{chunker.VERSION}:{config.max_tokens}:{config.overlap_tokens}"


def ingest(
    paths: Sequence[Path],
    store: Store,
    embedder: DocumentEmbedder,
    config: IngestConfig,
    *,
    prune: bool = False,
    language: str | None = None,
    tags: tuple[str, ...] = (),
    summaries: bool = False,
    on_progress: OnProgress | None = None,
) -> IngestReport:
    """Bring the index up to date with the files under `paths`.

    A file with the hash and the settings it was stored with is skipped; one that cannot be read is reported, keeps its
    old content if it had any, and the rest goes on. With `prune`, documents under `paths` whose file is gone are
    removed.

    :raises UsageError: a path does not exist, or `language` is no ISO 639-1 code.
    :raises StoreBusy, StoreFull: documents finished before are in, everything else is as it was.
    """
    started = time.monotonic()
    report = IngestReport()
    settings = json.dumps({"language": language or config.language, "tags": sorted(tags), "summaries": summaries})
    skipped: list[Path] = []
    files = [path for path in discover(paths, skipped) if not _is_index(path, store)]
    report.skipped = [str(path) for path in skipped if not _is_index(path, store)]
    indexer = Indexer(store, embedder, config.chunk, report, len(files), on_progress)
    known = store.known()
    by_file: dict[str, dict[str, Known]] = {}
    for source, one in known.items():
        by_file.setdefault(_file_of(source, one.type), {})[source] = one
    with Reader(config) as reader:
        for path in files:
            indexer.at(str(path))
            stored = by_file.get(_absolute(path), {})
            try:
                if _is_unchanged(path, stored, settings):
                    report.unchanged += 1
                else:
                    documents = reader.read(path, language=language, tags=tags)
                    _update(documents, stored, settings, summaries, indexer)
            except DocumentError as error:
                report.failed.append((str(path), str(error)))
            indexer.finished()
    if prune:
        report.removed += store.remove(source for source, one in known.items() if _is_gone(source, one, paths))
    report.seconds = time.monotonic() - started
    return report


def rebuild(
    store: Store,
    embedder: DocumentEmbedder,
    config: IngestConfig,
    identity: Identity,
    *,
    on_progress: OnProgress | None = None,
) -> IngestReport:
    """Chunk and embed every stored document anew, from the stored text: the sources need not be there any more.

    One transaction, so that no search ever sees half of the old index and half of the new one: a kill leaves the old
    one, and other writers wait.

    :raises StoreBusy, StoreFull: the index is as it was.
    """
    started = time.monotonic()
    report = IngestReport()
    with store.transaction():
        known = store.known()
        indexer = Indexer(store, embedder, config.chunk, report, len(known), on_progress)
        store.reset(identity)
        for source, one in known.items():
            indexer.at(source)
            document = store.document(source)
            if document is not None:
                indexer.put(document, one.settings, summary=bool(json.loads(one.settings).get("summaries")))
                report.replaced += 1
            indexer.finished()
    report.seconds = time.monotonic() - started
    return report


class Indexer:
    """Chunks, embeds and stores documents, and keeps count."""

    def __init__(
        self,
        store: Store,
        embedder: DocumentEmbedder,
        config: ChunkConfig,
        report: IngestReport,
        total: int = 0,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.store = store
        self.report = report
        self._embedder = embedder
        self._config = config
        self._total = total
        self._on_progress = on_progress
        self._source = ""
        self._done = 0
        self._embedding_sec = 0.0

    def at(self, source: str) -> None:
        """A source's turn has come."""
        self._source = source
        self._tell()

    def finished(self) -> None:
        """The source is in, or has failed."""
        self._done += 1
        self._tell()

    def put(self, document: Document, settings: str, *, summary: bool = False) -> None:
        """Chunk, embed and store a document in place of the one of its source.

        :raises DocumentError: it cannot be chunked.
        :raises StoreBusy, StoreFull: nothing was changed.
        """
        chunks = chunker.chunk(document, self._config, self._embedder.count_tokens)
        vectors = self._embed(document.title, chunks)
        if summary and (made := self._summarise(document, chunks, vectors)):
            chunks = [*chunks, made]
            vectors = np.concatenate([vectors, self._embed(document.title, [made])])
        terms = [lexical.terms(chunker.embedding_text(document.title, chunk), document.language) for chunk in chunks]
        self.store.replace(document, chunks, vectors, terms, settings=settings)

    def _summarise(self, document: Document, chunks: list[Chunk], vectors: NDArray[np.float32]) -> Chunk | None:
        return summarise(
            document, chunks, vectors, max_tokens=self._config.max_tokens, count_tokens=self._embedder.count_tokens
        )

    def _embed(self, title: str, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        vectors: list[NDArray[np.float32]] = []
        for first in range(0, len(chunks), EMBEDDED_AT_ONCE):
            texts = [chunker.embedding_text(title, chunk) for chunk in chunks[first : first + EMBEDDED_AT_ONCE]]
            started = time.monotonic()
            vectors.append(self._embedder.embed_documents(texts))
            self._embedding_sec += time.monotonic() - started
            self.report.chunks += len(texts)
            self.report.chunks_per_sec = self.report.chunks / max(self._embedding_sec, 1e-9)
            self._tell()
        return np.concatenate(vectors) if vectors else np.zeros((0, self.store.identity.dim), np.float32)

    def _tell(self) -> None:
        if self._on_progress is not None:
            chunks, rate = self.report.chunks, self.report.chunks_per_sec
            self._on_progress(Progress(self._source, self._done, self._total, chunks, rate))


def _update(
    documents: Sequence[Document], stored: dict[str, Known], settings: str, summaries: bool, indexer: Indexer
) -> None:
    """Store what a file holds now in place of what it held; tables that are gone from a database go from the index."""
    report = indexer.report
    for document in documents:
        before = stored.get(document.source)
        if before is not None and (before.sha256, before.settings) == (document.sha256, settings):
            report.unchanged += 1
            continue
        indexer.put(document, settings, summary=summaries)
        if before is None:
            report.added += 1
        else:
            report.replaced += 1
    report.removed += indexer.store.remove(set(stored) - {document.source for document in documents})


def _is_unchanged(path: Path, stored: dict[str, Known], settings: str) -> bool:
    """Whether a file need not even be parsed. A database is always read: its documents have the hashes of rows."""
    one = stored.get(_absolute(path))
    if one is None or one.settings != settings:
        return False
    try:
        return one.sha256 == sha256_file(path)
    except OSError as error:
        raise DocumentError(f"{path}: cannot be read: {error.strerror}") from None


def _is_index(path: Path, store: Store) -> bool:
    """The index itself may lie in an ingested folder, and would grow by its own content."""
    real = os.path.realpath(path)
    return any(real == os.path.realpath(store.path) + suffix for suffix in ("", "-wal", "-shm", "-journal"))


def _is_gone(source: str, one: Known, paths: Sequence[Path]) -> bool:
    file = _file_of(source, one.type)
    roots = [_absolute(path) for path in paths]
    if not any(file == root or file.startswith(root.rstrip("/") + "/") for root in roots):
        return False
    try:
        Path(file).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may well be there: do not remove what cannot be seen now
        return False
    return False


def _file_of(source: str, kind: str) -> str:
    """The file of a source: that of the table "<path>#<table>" is what stands before the mark."""
    if kind == "sqlite":
        for position in (i for i, character in enumerate(source) if character == "#"):
            if type_of(PurePath(source[:position])) == "sqlite":
                return source[:position]
    return source


def _absolute(path: Path) -> str:
    return Path(os.path.abspath(path)).as_posix()  # noqa: PTH100  as Reader does: links keep their own names
