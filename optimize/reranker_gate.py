"""How far a built reranker is from the PyTorch original: the order in which both put passages, and the best of them.

    python -m optimize.reranker_gate JOB.json OUT.npy     # the original's scores, in a process of its own

The text is the language model's gate text in windows of 40 words: a question is the first 10 of one, its candidates the
other 30 of this window and of the next ones. Some candidates are longer than a cross-encoder reads, and get cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import GateError
from edge.files import write_atomic
from edge.rerank import OnnxReranker
from optimize import child, embedder_gate

if TYPE_CHECKING:
    from optimize.reranker import RerankerRecipe

Scores = NDArray[np.float32]

_QUESTIONS = 48
_CANDIDATES = 8
_LONG = 6  # questions whose last candidate is longer than a cross-encoder reads
_LONG_WINDOWS = 24  # passages in it
_BATCH = 8  # padding does not change what the original computes


@dataclass(frozen=True)
class RerankerGate:
    """What the build may lose against the PyTorch original."""

    min_spearman: float = 0.98  # rank correlation of the scores of all pairs, -1..1
    min_kendall: float = 0.9  # of the candidates of a question, mean over questions, -1..1
    min_top1_agreement: float = 0.95  # share of questions with the same best candidate, 0..1

    def __post_init__(self) -> None:
        if not (-1 <= self.min_spearman <= 1 and -1 <= self.min_kendall <= 1 and 0 <= self.min_top1_agreement <= 1):
            raise ValueError("min_spearman and min_kendall are from -1 to 1, min_top1_agreement from 0 to 1")


@dataclass(frozen=True)
class Pairs:
    """Questions, each with as many candidates."""

    questions: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]


def shipped_pairs(fits: Callable[[str], bool]) -> Pairs:
    """The text that every build is compared over; a question that does not fit the reranker is left out."""
    texts = embedder_gate.shipped_texts(lambda _text: False)
    count = len(texts.questions)
    passages = texts.documents[:count]
    fitting = [place for place in range(count) if fits(texts.questions[place])]
    chosen = fitting[:: max(1, len(fitting) // _QUESTIONS)][:_QUESTIONS]
    candidates = [[passages[(place + i) % count] for i in range(_CANDIDATES)] for place in chosen]
    for place, found in zip(chosen[:_LONG], candidates[:_LONG], strict=True):
        found[-1] = " ".join(passages[(place + i) % count] for i in range(_LONG_WINDOWS))
    return Pairs(tuple(texts.questions[place] for place in chosen), tuple(map(tuple, candidates)))


def compare(built: OnnxReranker, pairs: Pairs, theirs: Scores) -> dict[str, float]:
    """The figures that `judge` judges.

    :param theirs: the original's relevance, (questions, candidates).
    """
    asked = zip(pairs.questions, pairs.candidates, strict=True)
    ours = np.array([[one.relevance for one in built.score(question, found)] for question, found in asked])
    return {
        "pairs": ours.size,
        "spearman": round(spearman(ours.ravel(), theirs.ravel()), 4),
        "kendall": round(float(np.mean([kendall(a, b) for a, b in zip(ours, theirs, strict=True)])), 4),
        "top1_agreement": round(float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))), 4),
        "mean_difference": round(float(np.abs(ours - theirs).mean()), 4),
    }


def judge(figures: dict[str, float], gate: RerankerGate) -> dict[str, Any]:
    """The figures with their thresholds, as the manifest keeps them.

    :raises GateError: a threshold is missed; the message is the whole table.
    """
    checks = {
        "spearman": gate.min_spearman,
        "kendall": gate.min_kendall,
        "top1_agreement": gate.min_top1_agreement,
    }
    failed = [name for name, limit in checks.items() if not figures[name] >= limit]  # a NaN fails
    if failed:
        lines = [
            f"  {name:15} {figures[name]:<8.4f} must be >= {limit:<8.4f} {'FAILED' if name in failed else 'ok'}"
            for name, limit in checks.items()
        ]
        head = (
            f"the reranker lost too much against its original (over {figures['pairs']:.0f} pairs); nothing was packaged"
        )
        hint = "Build it with `precision: fp32`, or change the thresholds under `reranker.gate:` in the recipe"
        raise GateError("\n".join([head, *lines, hint]))
    return {**figures, "thresholds": checks}


def spearman(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Rank correlation of two score lists, -1..1; equal scores share their mean rank. NaN where one is constant. (pure)

    Spearman 1904.
    """
    a, b = ranks(one), ranks(other)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def kendall(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Kendall's tau-b of two score lists, -1..1; NaN where one is constant. (pure) Kendall 1945."""
    upper = np.triu_indices(len(one), 1)
    a = np.sign(one[:, None] - one[None, :])[upper]
    b = np.sign(other[:, None] - other[None, :])[upper]
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 0, float64 (n,); equal values share their mean. (pure)"""
    order = np.sort(values)
    first, last = np.searchsorted(order, values, "left"), np.searchsorted(order, values, "right")
    return np.asarray((first + last - 1) / 2, dtype=np.float64)


def reference_scores(origin: Path, recipe: RerankerRecipe, pairs: Pairs, scratch: Path, log: str) -> Scores:
    """The original's relevance, float32 (questions, candidates). Of a pair over `max_tokens` the passage is cut.

    :raises BuildError: the original cannot be run; names the log.
    """
    job, result = scratch / "job.json", scratch / "scores.npy"
    asked = zip(pairs.questions, pairs.candidates, strict=True)
    content = {
        "folder": str(origin),
        "max_tokens": recipe.max_tokens,
        "activation": recipe.activation,
        "pairs": [
            [recipe.query_prefix + question, recipe.document_prefix + text]
            for question, found in asked
            for text in found
        ],
    }
    write_atomic(job, json.dumps(content))
    child.run(
        "optimize.reranker_gate", [str(job), str(result)], "Running the original reranker", f"{log}-reference", scratch
    )
    scores: Scores = np.load(result).reshape(len(pairs.questions), -1)
    return scores


def _main(job: Path, result: Path) -> None:
    child.die_with_parent()
    child.quiet()
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    asked = json.loads(job.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(Path(asked["folder"], "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(asked["max_tokens"], strategy="only_second")
    loaded = AutoModelForSequenceClassification.from_pretrained(
        asked["folder"], dtype=torch.float32, output_loading_info=True
    )
    model, missing = loaded[0].eval(), sorted(loaded[1]["missing_keys"])
    if missing:
        sys.exit(f"the weights of the head are missing, so it was never trained to rank: {', '.join(missing)}")
    encoded = tokenizer.encode_batch([tuple(pair) for pair in asked["pairs"]])
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    types = getattr(model.config, "type_vocab_size", 0) > 1
    scores = np.empty(len(encoded), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, len(order), _BATCH):
            rows = order[first : first + _BATCH]
            longest = len(encoded[rows[-1]].ids)
            pads = [[0] * (longest - len(encoded[i].ids)) for i in rows]
            feed = {
                "input_ids": torch.tensor([encoded[i].ids + pad for i, pad in zip(rows, pads, strict=True)]),  # (b, t)
                "attention_mask": torch.tensor([[1] * (longest - len(pad)) + pad for pad in pads]),
            }
            if types:
                feed["token_type_ids"] = torch.tensor(
                    [encoded[i].type_ids + pad for i, pad in zip(rows, pads, strict=True)]
                )
            logits = model(**feed).logits[:, 0]  # (b,)
            scores[rows] = (torch.sigmoid(logits) if asked["activation"] == "sigmoid" else logits).numpy()
    np.save(result, scores)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
