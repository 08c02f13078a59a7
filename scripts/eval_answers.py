#!/usr/bin/env python3
"""How good the answers are, end to end: retrieved passages, the model that ships, checked citations.

    scripts/eval_answers.py FILE.json [--json] [--limit N] [--seed N] [--bundle DIR] [--config FILE]

FILE.json is in SQuAD format. Each context becomes a document of a temporary index; each question goes the way of
`edge ask`. Printed are, as shares of 1:
  em, f1               exact match and token F1 under the official SQuAD normalisation, the best over the annotated
                       answers; an abstention counts as the empty answer, which is right where the file has no answer
  citation_precision   citations that lie in the right document and hold an annotated answer's whole span
  abstained            questions that were not answered
  quoted               answers that are a quoted sentence, since no passage supported what the model wrote
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _squad

from edge.answer import Answer
from edge.box import Box
from edge.cli.common import console
from edge.errors import EdgeError
from edge.ingest.index import chunker_id
from edge.types import Citation


@dataclass(frozen=True)
class Scored:
    """One question's figures."""

    em: float
    f1: float
    citations: int
    right_citations: int
    answer: Answer


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: as the official SQuAD v1.1 evaluation does."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(predicted: str, expected: str) -> float:
    """Harmonic mean of precision and recall over normalised tokens; two empty answers agree."""
    ours, theirs = normalise(predicted).split(), normalise(expected).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def score(answer: Answer, question: _squad.Question, texts: Sequence[str]) -> Scored:
    """Compare an answer with the annotated ones; `texts` is empty where the file says that there is none."""
    predicted = "" if answer.abstained else answer.text
    golds = texts or [""]
    return Scored(
        em=max(float(normalise(predicted) == normalise(gold)) for gold in golds),
        f1=max(f1(predicted, gold) for gold in golds),
        citations=len(answer.citations),
        right_citations=sum(is_right(citation, question) for citation in answer.citations),
        answer=answer,
    )


def is_right(citation: Citation, question: _squad.Question) -> bool:
    """Whether the cited span holds an annotated answer in the document that the question was asked about."""
    spans = question.spans
    return citation.document == question.source and any(citation.start <= a and b <= citation.end for a, b in spans)


def summary(scored: Sequence[Scored]) -> dict[str, float]:
    """The printed shares, and the medians of the times."""
    cited = sum(one.citations for one in scored)
    answers = [one.answer for one in scored]
    asked = [answer for answer in answers if not answer.abstained] or answers
    return {
        "em": statistics.fmean(one.em for one in scored),
        "f1": statistics.fmean(one.f1 for one in scored),
        "citation_precision": sum(one.right_citations for one in scored) / cited if cited else 0.0,
        "citations_per_answer": cited / len(asked),
        "abstained": statistics.fmean(answer.abstained for answer in answers),
        "quoted": statistics.fmean(answer.quoted for answer in answers),
        "retrieve_sec_p50": statistics.median(answer.retrieve_sec for answer in answers),
        "ttft_sec_p50": statistics.median(answer.stats.ttft_sec for answer in asked),
        "decode_tok_per_sec_p50": statistics.median(answer.stats.decode_tok_per_sec for answer in asked),
        "rss_peak_bytes": max(answer.rss_peak_bytes for answer in answers),
    }


def evaluate(path: Path, box: Box, *, limit: int | None, seed: int) -> dict[str, Any]:
    """All figures for one file, over `limit` questions drawn with `seed`, or over all of them."""
    from rich.progress import track

    documents, questions = _squad.read(path)
    if limit is not None and limit < len(questions):
        questions = random.Random(seed).sample(questions, limit)
    texts = {document.source: document.text for document in documents}
    section = box.bundle.manifest.embedder
    with tempfile.TemporaryDirectory(prefix="edge-eval-") as folder:
        box.index_path = Path(folder) / "index.db"
        store, _ = _squad.build(
            box.index_path, documents, box.embedder, box.config, fingerprint=section.fingerprint, dim=section.dim
        )
        store.close()
        scored = []
        for question in track(questions, console=console(), description="asking"):
            golds = [texts[question.source][start:end] for start, end in question.spans]
            scored.append(score(box.ask(question.text), question, golds))
        box.store.close()
    return {
        "file": path.name,
        "documents": len(documents),
        "questions": len(questions),
        "seed": seed,
        "bundle": box.bundle.digest,
        "chunker": chunker_id(box.config.ingest.chunk),
        **{name: round(value, 4) for name, value in summary(scored).items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--limit", type=int, help="ask only this many questions")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        with Box.open(bundle=arguments.bundle, index=None, config=arguments.config) as box:
            result = evaluate(arguments.file, box, limit=arguments.limit, seed=arguments.seed)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
