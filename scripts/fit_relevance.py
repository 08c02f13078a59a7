#!/usr/bin/env python3
"""Fit the calibration of `edge.retrieve.relevance`, and show what each floor keeps and refuses.

    scripts/fit_relevance.py FILE.json... [--json] [--bundle DIR] [--config FILE] [--seed N]

FILE.json is in SQuAD format. For random parts of its documents, small ones too, a question whose document is in it can
be answered, and one whose document was left out cannot. A logistic regression tells them apart by two scores of the
best hit: the cosine of its nearest sentence, and BM25. Every part counts the same. The table is cross-validated: the
coefficients come from the questions on one half of the documents, the shares from the other half.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _squad
import numpy as np
from numpy.typing import NDArray

from edge.box import Box
from edge.config import EdgeConfig
from edge.errors import EdgeError
from edge.retrieve import retrieve

PARTS = ((12, 6), (40, 3), (10**9, 2))  # documents in a part, and how many such parts; at most 3/4 of all
QUESTIONS = 100  # of each kind, for each part
FLOORS = (0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Sample:
    group: str  # file and size of the part
    half: int  # of the documents, 0 or 1
    answerable: bool
    closest: float
    lexical: float


class Remembering:
    """An embedder that embeds each text once: the parts share their documents."""

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._known.update(zip(missing, self._embedder.embed_documents(missing), strict=True))
        return np.stack([self._known[text] for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        key = f"query\n{text}"
        if key not in self._known:
            self._known[key] = self._embedder.embed_query(text)
        return self._known[key]

    def count_tokens(self, text: str) -> int:
        count: int = self._embedder.count_tokens(text)
        return count


def samples(path: Path, embedder: Remembering, config: EdgeConfig, rng: random.Random, dim: int) -> list[Sample]:
    """The best hit's scores for questions with and without their document, over random parts of the file."""
    documents, questions = _squad.read(path)
    half = {document.source: number % 2 for number, document in enumerate(documents)}
    found: list[Sample] = []
    sizes = dict.fromkeys((min(size, len(documents) * 3 // 4), times) for size, times in PARTS)
    for size, times in sizes:
        for _ in range(times):
            part = rng.sample(documents, size)
            inside = {document.source for document in part}
            with tempfile.TemporaryDirectory(prefix="edge-fit-") as folder:
                index = Path(folder) / "index.db"
                store, _ = _squad.build(index, part, embedder, config, fingerprint="fit", dim=dim)
                with store:
                    for answerable in (True, False):
                        kind = [q for q in questions if q.spans and (q.source in inside) is answerable]
                        for question in rng.sample(kind, min(QUESTIONS, len(kind))):
                            hits = retrieve(question.text, store, embedder, config.retrieve)
                            scores = [(hit.closest or 0.0, hit.lexical) for hit in hits if hit.relevance is not None]
                            group = f"{path.stem} {size}"
                            best = max(scores, key=sum, default=(0.0, 0.0))
                            found.append(Sample(group, half[question.source], answerable, *best))
    return found


def fit(found: Sequence[Sample]) -> NDArray[np.float64]:
    """Bias and weights of closest and lexical, by Newton's method; both kinds of each group weigh the same."""
    x = np.array([[1.0, s.closest, s.lexical] for s in found])
    y = np.array([s.answerable for s in found], dtype=float)
    kinds = [(s.group, s.answerable) for s in found]
    weight = np.array([1 / kinds.count(kind) for kind in kinds])
    weight /= weight.mean()
    b = np.zeros(3)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ b))
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(3)
        b -= np.linalg.solve(hessian, x.T @ (weight * (p - y)) + 1e-3 * b)
    return b


def held_out(found: Sequence[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """For each group and floor: the share of answerable questions kept and of unanswerable ones refused."""
    scores: dict[tuple[str, bool], list[float]] = {}
    for half in (0, 1):
        b = fit([s for s in found if s.half == half])
        for s in (s for s in found if s.half != half):
            probability = float(1 / (1 + np.exp(-(b[0] + b[1] * s.closest + b[2] * s.lexical))))
            scores.setdefault((s.group, s.answerable), []).append(probability)
    return {
        group: {
            str(floor): {
                "kept": round(float(np.mean(np.array(scores[group, True]) >= floor)), 3),
                "refused": round(float(np.mean(np.array(scores[group, False]) < floor)), 3),
            }
            for floor in FLOORS
        }
        for group in dict.fromkeys(s.group for s in found)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--bundle", type=Path, help="the bundle whose embedder is used")
    parser.add_argument("--config", type=Path, help="chunk sizes and weights")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        with Box.open(bundle=arguments.bundle, index=None, config=arguments.config) as box:
            embedder, dim = Remembering(box.embedder), box.bundle.manifest.embedder.dim
            rng = random.Random(arguments.seed)
            found = [s for path in arguments.files for s in samples(path, embedder, box.config, rng, dim)]
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    bias, closest, lexical = (round(float(value), 2) for value in fit(found))
    result = {"bias": bias, "closest": closest, "lexical": lexical, "floors": held_out(found)}
    if arguments.json:
        print(json.dumps(result))
        return 0
    print(f"RELEVANCE_BIAS = {bias}\nRELEVANCE_CLOSEST = {closest}\nRELEVANCE_LEXICAL = {lexical}")
    print("kept / refused at floor" + "".join(f"{floor:>14}" for floor in FLOORS))
    for group, floors in result["floors"].items():
        print(f"{group:23}" + "".join(f"{v['kept']:8.2f} /{v['refused']:4.2f}" for v in floors.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
