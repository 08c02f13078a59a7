#!/usr/bin/env python3
"""How well the retriever finds the passage that holds the answer.

    scripts/eval_retrieval.py FILE.json [--json] [--bundle DIR] [--config FILE]

FILE.json is in SQuAD format. Each context becomes a document of a temporary index, made by the chunker, the embedder
and the store that ship; each question goes through the retriever that ships. A hit is a chunk of the right document
that holds the whole span of an annotated answer. Printed are recall@1, 3, 5, 10 and MRR over the candidates, ordered by
each arm's score alone, by the fused score, and as judged: by what `edge ask` packs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _squad

from edge.box import Box
from edge.config import EdgeConfig
from edge.errors import EdgeError
from edge.retrieve import candidates, judge
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.types import Hit

ARMS: dict[str, Callable[[Hit], float]] = {
    "dense": lambda hit: hit.dense,
    "bm25": lambda hit: hit.lexical,
    "fused": lambda hit: hit.score,
}
JUDGED = "judged"  # the fused order, after the nearest sentences of its best hits were looked at: what `edge ask` packs
CUTS = (1, 3, 5, 10)


def rank(hits: Sequence[Hit], score: Callable[[Hit], float], question: _squad.Question) -> int | None:
    """The rank, from 1, of the first hit that holds an answer; None where no candidate does."""
    ordered = sorted(hits, key=lambda hit: (-score(hit), hit.chunk_id))
    return first(ordered, question)


def first(ordered: Sequence[Hit], question: _squad.Question) -> int | None:
    return next((place for place, hit in enumerate(ordered, 1) if holds(hit, question)), None)


def holds(hit: Hit, question: _squad.Question) -> bool:
    """Whether the chunk is of the right document and holds an answer's whole span."""
    chunk = hit.chunk
    return hit.document == question.source and any(chunk.start <= a and b <= chunk.end for a, b in question.spans)


def summary(ranks: Sequence[int | None]) -> dict[str, float]:
    """Recall at each cut, and the mean reciprocal rank."""
    found = {f"recall@{cut}": sum(r is not None and r <= cut for r in ranks) / len(ranks) for cut in CUTS}
    return {**found, "mrr": sum(1 / r for r in ranks if r is not None) / len(ranks)}


def evaluate(path: Path, embedder: Any, config: EdgeConfig, *, fingerprint: str, dim: int) -> dict[str, Any]:
    """All figures for one file; `embedder` as in `edge.embed`."""
    documents, questions = _squad.read(path)
    questions = [question for question in questions if question.spans]
    with tempfile.TemporaryDirectory(prefix="edge-eval-") as folder:
        store, report = _squad.build(
            Path(folder) / "index.db", documents, embedder, config, fingerprint=fingerprint, dim=dim
        )
        with store:
            ranks, seconds = _ask_all(questions, store, embedder, config)
    return {
        "file": path.name,
        "documents": len(documents),
        "questions": len(questions),
        "chunks": report.chunks,
        "chunks_per_sec": round(report.chunks_per_sec, 1),
        "retrieve_ms": round(1000 * seconds / len(questions), 1),
        **{arm: {key: round(value, 4) for key, value in summary(ranks[arm]).items()} for arm in ranks},
    }


def _ask_all(
    questions: Sequence[_squad.Question], store: Store, embedder: Any, config: EdgeConfig
) -> tuple[dict[str, list[int | None]], float]:
    ranks: dict[str, list[int | None]] = {arm: [] for arm in (*ARMS, JUDGED)}
    started = time.perf_counter()
    for question in questions:
        hits = candidates(question.text, store, embedder, config.retrieve, Filter())
        for arm, score in ARMS.items():
            ranks[arm].append(rank(hits, score, question))
        hits.sort(key=lambda hit: (-hit.score, hit.chunk_id))
        ranks[JUDGED].append(first(judge(hits, question.text, embedder), question))
    return ranks, time.perf_counter() - started


def show(result: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"{result['file']}: {result['documents']} documents, {result['chunks']} chunks, "
             f"{result['questions']} questions, {result['retrieve_ms']} ms each"]  # fmt: skip
    lines.append(f"{'':6}" + "".join(f"{f'recall@{cut}':>11}" for cut in CUTS) + f"{'MRR':>11}")
    lines += [f"{arm:6}" + "".join(f"{value:11.3f}" for value in result[arm].values()) for arm in (*ARMS, JUDGED)]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--bundle", type=Path, help="the bundle whose embedder is used")
    parser.add_argument("--config", type=Path, help="chunk sizes and weights")
    arguments = parser.parse_args()
    try:
        with Box.open(bundle=arguments.bundle, index=None, config=arguments.config) as box:
            section = box.bundle.manifest.embedder
            fingerprint, dim = section.fingerprint, section.dim
            result = evaluate(arguments.file, box.embedder, box.config, fingerprint=fingerprint, dim=dim)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result) if arguments.json else show(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
