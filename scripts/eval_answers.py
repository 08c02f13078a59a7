#!/usr/bin/env python3
"""How good the answers are, end to end: retrieved passages, the model that ships, checked citations.

    scripts/eval_answers.py FILE.json [--json] [--limit N] [--seed N] [--resume] [--bundle DIR] [--config FILE]

FILE.json is in SQuAD format. Each context becomes a document of a temporary index; each question goes the way of
`edge ask`. The figures of each question are written down as soon as it is answered, so an interrupted run loses
nothing: the same command with --resume goes on. What was written by other code, or with another bundle or
configuration, is not taken up. Printed are, as shares of 1:
  em, f1               exact match and token F1 under the official SQuAD normalisation, the best over the annotated
                       answers; an abstention counts as the empty answer, which is right where the file has no answer
  citation_precision   citations that lie in the right document and hold an annotated answer's whole span
  abstained            questions that were not answered
  quoted               answers that are a quoted sentence, since no passage supported what the model wrote
`resumed` counts the questions whose figures are those of an earlier run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _squad

import edge
from edge.answer import Answer
from edge.box import Box
from edge.cli.common import console
from edge.config import to_plain
from edge.errors import EdgeError
from edge.files import cache, sha256_file
from edge.ingest.index import chunker_id
from edge.types import Citation, Document
from optimize.scores import exact, f1


@dataclass(frozen=True)
class Scored:
    """One question's figures."""

    em: float
    f1: float
    citations: int
    right_citations: int
    abstained: bool
    quoted: bool
    retrieve_sec: float
    ttft_sec: float
    decode_tok_per_sec: float
    rss_peak_bytes: int


class Progress:
    """Figures by the number of the question, in a file of one JSON line each that is only ever appended to."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.known: dict[int, Scored] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.unlink(missing_ok=True)
        elif path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    found = json.loads(line)
                    number = found.pop("question")
                    self.known[number] = Scored(**found)
                except (ValueError, KeyError, TypeError):
                    continue  # the line that was being written when the run was killed

    def keep(self, number: int, scored: Scored) -> None:
        line = json.dumps({"question": number, **dataclasses.asdict(scored)})
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"\n{line}")  # the line break first: it closes a line that a killed run left open


def score(answer: Answer, question: _squad.Question, texts: Sequence[str]) -> Scored:
    """Compare an answer with the annotated ones; `texts` is empty where the file says that there is none."""
    predicted = "" if answer.abstained else answer.text
    return Scored(
        em=exact(predicted, texts),
        f1=f1(predicted, texts),
        citations=len(answer.citations),
        right_citations=sum(is_right(citation, question) for citation in answer.citations),
        abstained=answer.abstained,
        quoted=answer.quoted,
        retrieve_sec=answer.retrieve_sec,
        ttft_sec=answer.stats.ttft_sec,
        decode_tok_per_sec=answer.stats.decode_tok_per_sec,
        rss_peak_bytes=answer.rss_peak_bytes,
    )


def is_right(citation: Citation, question: _squad.Question) -> bool:
    """Whether the cited span holds an annotated answer in the document that the question was asked about."""
    spans = question.spans
    return citation.document == question.source and any(citation.start <= a and b <= citation.end for a, b in spans)


def summary(scored: Sequence[Scored]) -> dict[str, float]:
    """The printed shares, and the medians of the times."""
    cited = sum(one.citations for one in scored)
    asked = [one for one in scored if not one.abstained] or scored
    return {
        "em": statistics.fmean(one.em for one in scored),
        "f1": statistics.fmean(one.f1 for one in scored),
        "citation_precision": sum(one.right_citations for one in scored) / cited if cited else 0.0,
        "citations_per_answer": cited / len(asked),
        "abstained": statistics.fmean(one.abstained for one in scored),
        "quoted": statistics.fmean(one.quoted for one in scored),
        "retrieve_sec_p50": statistics.median(one.retrieve_sec for one in scored),
        "ttft_sec_p50": statistics.median(one.ttft_sec for one in asked),
        "decode_tok_per_sec_p50": statistics.median(one.decode_tok_per_sec for one in asked),
        "rss_peak_bytes": max(one.rss_peak_bytes for one in scored),
    }


def evaluate(path: Path, box: Box, *, limit: int | None, seed: int, resume: bool) -> dict[str, Any]:
    """All figures for one file, over `limit` questions drawn with `seed`, or over all of them."""
    documents, questions = _squad.read(path)
    drawn = list(range(len(questions)))
    if limit is not None and limit < len(drawn):
        drawn = random.Random(seed).sample(drawn, limit)
    texts = {document.source: document.text for document in documents}
    progress = Progress(cache() / "answers" / f"{digest(path, box)[:32]}.jsonl", resume)
    missing = [number for number in drawn if number not in progress.known]
    with indexed(documents, box) if missing else contextlib.nullcontext():
        for number in shown(missing, len(drawn)):
            question = questions[number]
            golds = [texts[question.source][start:end] for start, end in question.spans]
            progress.known[number] = score(box.ask(question.text), question, golds)
            progress.keep(number, progress.known[number])
    return {
        "file": path.name,
        "documents": len(documents),
        "questions": len(drawn),
        "seed": seed,
        "resumed": len(drawn) - len(missing),
        "bundle": box.bundle.digest,
        "chunker": chunker_id(box.config.ingest.chunk),
        **{name: round(value, 4) for name, value in summary([progress.known[n] for n in drawn]).items()},
    }


@contextlib.contextmanager
def indexed(documents: Sequence[Document], box: Box) -> Iterator[None]:
    """Let the box answer from these documents."""
    section = box.bundle.manifest.embedder
    with tempfile.TemporaryDirectory(prefix="edge-eval-") as folder:
        box.index_path = Path(folder) / "index.db"
        store, _ = _squad.build(
            box.index_path, documents, box.embedder, box.config, fingerprint=section.fingerprint, dim=section.dim
        )
        store.close()
        try:
            yield
        finally:
            box.store.close()


def digest(path: Path, box: Box) -> str:
    """Hex sha256 of all that decides an answer: the file, the bundle, the configuration, the code of `edge`."""
    package = Path(edge.__file__).parent
    sources = sorted(file for file in package.rglob("*") if file.suffix in (".py", ".sql", ".yaml"))
    code = [(file.relative_to(package).as_posix(), sha256_file(file)) for file in sources]
    reads = [sha256_file(path), box.bundle.digest, to_plain(box.config), code]
    return hashlib.sha256(json.dumps(reads).encode()).hexdigest()


def shown(numbers: Sequence[int], total: int) -> Iterator[int]:
    """The numbers, with a bar on a terminal and a line now and then elsewhere, on stderr."""
    from rich.progress import track

    if console().is_terminal:
        done = total - len(numbers)
        yield from track(numbers, console=console(), description="asking", total=total, completed=done)
        return
    started = said = time.monotonic()
    for count, number in enumerate(numbers):
        if (now := time.monotonic()) - said > 20:
            said, left = now, (now - started) / count * (len(numbers) - count)
            print(f"{total - len(numbers) + count} of {total} questions, {left / 60:.0f} min left", file=sys.stderr)
        yield number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--limit", type=int, help="ask only this many questions")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run was")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        with Box.open(bundle=arguments.bundle, index=None, config=arguments.config) as box:
            result = evaluate(arguments.file, box, limit=arguments.limit, seed=arguments.seed, resume=arguments.resume)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on where this one was", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
