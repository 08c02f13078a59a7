"""How far a built embedder is from the PyTorch original: cosine of their vectors, and what each of them finds.

    python -m optimize.embedder_gate JOB.json OUT.npy     # the original's vectors, in a process of its own

The text is shipped: sentences in several languages, and windows of the language model's gate text. A window of 40 words
is a question (its first 10) and a passage (the other 30); recall@5 is how often the question finds its own passage.
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

from edge.embed import OnnxEmbedder
from edge.errors import GateError
from edge.files import write_atomic
from optimize import child

if TYPE_CHECKING:
    from optimize.embedder import EmbedderRecipe

Vectors = NDArray[np.float32]

DATA = Path(__file__).parent / "data"
_LONG_WORDS = 160  # about a chunk
_PAIR_WORDS = 40
_QUESTION_WORDS = 10
_DEPTH = 5
_BATCH = 16  # padding does not change what the original computes


@dataclass(frozen=True)
class EmbedderGate:
    """What the build may lose."""

    min_mean_cosine: float = 0.99  # to the original's vectors, over all texts
    min_cosine: float = 0.96  # the worst text
    max_recall_loss: float = 0.005  # of recall@5, 0..1

    def __post_init__(self) -> None:
        if not (0 <= self.min_cosine <= self.min_mean_cosine <= 1 and 0 <= self.max_recall_loss <= 1):
            raise ValueError("0 <= min_cosine <= min_mean_cosine <= 1 and 0 <= max_recall_loss <= 1 are needed")


@dataclass(frozen=True)
class Reference:
    """The original: a Hugging Face folder and how its output becomes a vector."""

    folder: Path
    pooling: str
    max_tokens: int


@dataclass(frozen=True)
class Texts:
    documents: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[int, ...]  # for each question, the index of its document


def shipped_texts(fits: Callable[[str], bool]) -> Texts:
    """The text that every build is compared over; a long window that does not fit the embedder is left out."""
    words = " ".join(path.read_text(encoding="utf-8") for path in sorted((DATA / "gate").glob("*.txt"))).split()
    sentences = (DATA / "embedder" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    pairs = [words[i : i + _PAIR_WORDS] for i in range(0, len(words) - _PAIR_WORDS, _PAIR_WORDS)]
    passages = [" ".join(pair[_QUESTION_WORDS:]) for pair in pairs]
    long = [" ".join(words[i : i + _LONG_WORDS]) for i in range(0, len(words), _LONG_WORDS)]
    return Texts(
        documents=(*passages, *sentences, *filter(fits, long)),
        questions=tuple(" ".join(pair[:_QUESTION_WORDS]) for pair in pairs),
        answers=tuple(range(len(pairs))),
    )


def compare(
    built: OnnxEmbedder, recipe: EmbedderRecipe, reference: Reference, texts: Texts, scratch: Path, log: str
) -> dict[str, float]:
    """The figures that `judge` judges.

    :param scratch: an existing folder.
    :raises BuildError: the original cannot be run; names the log.
    """
    prefixed = [recipe.document_prefix + text for text in texts.documents]
    prefixed += [recipe.query_prefix + text for text in texts.questions]
    theirs = reference_vectors(reference, prefixed, scratch, log)
    count = len(texts.documents)
    documents = built.embed_documents(texts.documents)
    questions = np.stack([built.embed_query(text) for text in texts.questions])
    cosines = np.sum(np.concatenate([documents, questions]) * theirs, axis=1)
    return {
        "texts": len(prefixed),
        "mean_cosine": round(float(cosines.mean()), 4),
        "min_cosine": round(float(cosines.min()), 4),
        "recall_at_5": round(_recall(questions, documents, texts.answers), 4),
        "reference_recall_at_5": round(_recall(theirs[count:], theirs[:count], texts.answers), 4),
    }


def judge(figures: dict[str, float], gate: EmbedderGate) -> dict[str, Any]:
    """The figures with their thresholds, as the manifest keeps them.

    :raises GateError: a threshold is missed; the message is the whole table.
    """
    least_recall = figures["reference_recall_at_5"] - gate.max_recall_loss
    checks = (
        ("mean_cosine", gate.min_mean_cosine),
        ("min_cosine", gate.min_cosine),
        ("recall_at_5", round(least_recall, 4)),
    )
    failed = [name for name, limit in checks if not figures[name] >= limit]  # a NaN fails
    if failed:
        lines = [
            f"  {name:12} {figures[name]:<8.4f} must be >= {limit:<8.4f} {'FAILED' if name in failed else 'ok'}"
            for name, limit in checks
        ]
        head = (
            f"the embedder lost too much against its original (over {figures['texts']:.0f} texts); nothing was packaged"
        )
        hint = "Build it with `precision: fp32`, or change the thresholds under `embedder.gate:` in the recipe"
        raise GateError("\n".join([head, *lines, hint]))
    return {**figures, "thresholds": dict(checks)}


def reference_vectors(reference: Reference, texts: list[str], scratch: Path, log: str) -> Vectors:
    """The original's vectors, float32 (len(texts), dim), unit length. Texts over `max_tokens` are cut at it.

    :raises BuildError: the original cannot be run; names the log.
    """
    job, result = scratch / "job.json", scratch / "vectors.npy"
    content = {
        "folder": str(reference.folder),
        "pooling": reference.pooling,
        "max_tokens": reference.max_tokens,
        "texts": texts,
    }
    write_atomic(job, json.dumps(content))
    arguments = [str(job), str(result)]
    child.run("optimize.embedder_gate", arguments, "Running the original embedder", f"{log}-reference", scratch)
    vectors: Vectors = np.load(result)
    return vectors


def _recall(questions: Vectors, documents: Vectors, answers: tuple[int, ...]) -> float:
    """Share of questions with fewer than `_DEPTH` documents nearer than their own."""
    cosines = questions @ documents.T
    own = cosines[np.arange(len(answers)), list(answers)]
    return float(np.mean(np.sum(cosines > own[:, None], axis=1) < _DEPTH))


def _main(job: Path, result: Path) -> None:
    child.die_with_parent()
    child.quiet()
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    asked = json.loads(job.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(Path(asked["folder"], "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(asked["max_tokens"])
    model = AutoModel.from_pretrained(asked["folder"], dtype=torch.float32).eval()
    encoded = tokenizer.encode_batch(asked["texts"])
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    vectors = np.empty((len(encoded), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, len(order), _BATCH):
            rows = order[first : first + _BATCH]
            longest = len(encoded[rows[-1]].ids)
            ids = torch.tensor([encoded[i].ids + [0] * (longest - len(encoded[i].ids)) for i in rows])  # (b, t)
            lengths = torch.tensor([len(encoded[i].ids) for i in rows])
            mask = (torch.arange(longest) < lengths[:, None]).long()  # (b, t)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (b, t, dim)
            mean = (hidden * mask[..., None]).sum(dim=1) / lengths[:, None]
            pooled = mean if asked["pooling"] == "mean" else hidden[:, 0]
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    np.save(result, vectors)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
