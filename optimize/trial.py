"""A bundle is asked the questions of a data set, as `edge ask` answers them: an index of all passages, then answers."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.box import Box
from edge.errors import DatasetError
from edge.ingest.index import Indexer, IngestReport, chunker_id
from edge.store.chunks import Store
from edge.types import Document
from optimize import scores
from optimize.dataset.documents import document_of
from optimize.dataset.examples import Example


@dataclass(frozen=True, slots=True)
class Asked:
    """One question's answer."""

    id: str
    answerable: bool
    text: str  # empty where it abstained
    em: float
    f1: float
    abstained: bool
    quoted: bool
    cited_right: bool  # a cited span holds an accepted answer
    retrieve_sec: float
    ttft_sec: float
    seconds: float  # of the whole question


@dataclass(frozen=True, slots=True)
class Summary:
    """Shares of 1 over the questions; None where there were none of the kind."""

    questions: int
    f1: float | None  # of the answerable ones; an abstention is the empty answer
    em: float | None
    cited_right: float | None  # of the answerable ones that were answered
    abstention_precision: float | None  # of the abstentions, those on questions without an answer
    abstention_recall: float | None  # of the questions without an answer, those that were not answered
    quoted: float


def summary(asked: Sequence[Asked]) -> Summary:
    """The figures of all questions together."""
    answerable = [one for one in asked if one.answerable]
    refused = [one for one in asked if one.abstained]
    return Summary(
        questions=len(asked),
        f1=_mean([one.f1 for one in answerable]),
        em=_mean([one.em for one in answerable]),
        cited_right=_mean([float(one.cited_right) for one in answerable if not one.abstained]),
        abstention_precision=_mean([float(not one.answerable) for one in refused]),
        abstention_recall=_mean([float(one.abstained) for one in asked if not one.answerable]),
        quoted=_mean([float(one.quoted) for one in asked]) or 0.0,
    )


def ask(
    box: Box,
    examples: Sequence[Example],
    *,
    documents: Sequence[Example] | None = None,
    on_answer: Callable[[Asked], None] = lambda _: None,
) -> list[Asked]:
    """Ask every question of the box, over an index of all the passages that the examples show.

    :param documents: examples whose passages are indexed instead; what is searched is then more than what is asked.
    :raises DatasetError: no example shows a passage.
    :raises EdgeError: see `Box.ask`.
    """
    found = []
    with indexed(documents_of(documents or examples), box):
        for example in examples:
            started = time.perf_counter()
            answer = box.ask(example.question)
            seconds = time.perf_counter() - started
            text = "" if answer.abstained else answer.text
            found.append(
                Asked(
                    id=example.id,
                    answerable=bool(example.answers),
                    text=text,
                    em=scores.exact(text, example.answers),
                    f1=scores.f1(text, example.answers),
                    abstained=answer.abstained,
                    quoted=answer.quoted,
                    cited_right=any(
                        scores.normalise(gold) in scores.normalise(citation.text)
                        for citation in answer.citations
                        for gold in example.answers
                    ),
                    retrieve_sec=answer.retrieve_sec,
                    ttft_sec=answer.stats.ttft_sec,
                    seconds=seconds,
                )
            )
            on_answer(found[-1])
    return found


def hidden(
    everything: Sequence[Example], chosen: Sequence[Example], share: float, seed: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Both without a share of the passages that `chosen` is about: its questions on those have no answer any more.

    They are as hard as such questions get: other passages of the same documents stay.
    """
    passages = sorted({passage for example in chosen for passage in example.passages}, key=lambda one: one.text)
    gone = set(random.Random(seed).sample(passages, round(share * len(passages))))
    left = [example for example in everything if not gone & set(example.passages)]
    return left, [dataclasses.replace(e, answers=()) if gone & set(e.passages) else e for e in chosen]


def documents_of(examples: Sequence[Example]) -> list[Document]:
    """Every passage as the document that a text file of it would give.

    :raises DatasetError: there is none.
    """
    passages = dict.fromkeys(passage for example in examples for passage in example.passages)
    if not passages:
        raise DatasetError("the examples show no passages, so there is nothing to search")
    return [document_of(passage, number) for number, passage in enumerate(passages)]


@contextmanager
def indexed(documents: Sequence[Document], box: Box) -> Iterator[IngestReport]:
    """Let the box answer from these documents, indexed as `edge ingest` does it, until the block ends."""
    section, chunk, before = box.bundle.manifest.embedder, box.config.ingest.chunk, box.index_path
    with tempfile.TemporaryDirectory(prefix="edge-trial-") as folder:
        box.index_path = Path(folder) / "index.db"
        report = IngestReport()
        store = Store.open(
            box.index_path, create=True, fingerprint=section.fingerprint, dim=section.dim, chunker=chunker_id(chunk)
        )
        indexer = Indexer(store, box.embedder, chunk, report)
        for document in documents:
            indexer.put(document, "{}")
        store.close()
        try:
            yield report
        finally:
            if "store" in box.__dict__:
                box.__dict__.pop("store").close()
            box.index_path = before


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
