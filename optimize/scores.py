"""How right an answer is, and whether one model's answers are better than another's (pure).

Exact match and F1 are those of the official SQuAD v1.1 evaluation (Rajpurkar et al. 2016, arXiv:1606.05250): lower
case, without punctuation and articles, F1 over the words, the best over all accepted answers. An abstention counts as
the empty answer, which is right where there is none.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 10_000
_PUNCTUATION = set(string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(predicted: str, accepted: Sequence[str]) -> float:
    """1 where the answer is one of those accepted; none accepted is the empty answer."""
    return max(float(normalise(predicted) == normalise(gold)) for gold in accepted or [""])


def f1(predicted: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words, 0..1; the best over those accepted."""
    return max(_f1(predicted, gold) for gold in accepted or [""])


def _f1(predicted: str, expected: str) -> float:
    ours, theirs = normalise(predicted).split(), normalise(expected).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two models' scores on the same questions."""

    questions: int
    difference: float  # mean of the second less the first
    low: float  # of the interval that holds the difference with 95%
    high: float
    p: float  # share of resampled sets on which the second is not better: one-sided


def compare(first: Sequence[float], second: Sequence[float], *, rounds: int = ROUNDS, seed: int = 0) -> Comparison:
    """A paired bootstrap over questions (Koehn 2004, "Statistical Significance Tests for Machine Translation").

    :raises ValueError: the two were not asked the same number of questions, or none.
    """
    if len(first) != len(second) or not first:
        raise ValueError("both need the same questions, and at least one")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    means = _means(differences, rounds, seed)
    low, high = _middle(means)
    return Comparison(
        questions=len(differences),
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
        p=sum(mean <= 0 for mean in means) / rounds,
    )


def interval(values: Sequence[float], *, rounds: int = ROUNDS, seed: int = 0) -> tuple[float, float]:
    """The bounds that hold the mean with 95%: a bootstrap over questions.

    :raises ValueError: there are no values.
    """
    if not values:
        raise ValueError("at least one value is needed")
    return _middle(_means(values, rounds, seed))


def _means(values: Sequence[float], rounds: int, seed: int) -> list[float]:
    """Sorted means of resampled sets."""
    rng, count, given = np.random.default_rng(seed), len(values), np.array(values)
    return sorted(float(given[rng.integers(0, count, count)].mean()) for _ in range(rounds))


def _middle(means: Sequence[float]) -> tuple[float, float]:
    return means[int(0.025 * len(means))], means[min(len(means) - 1, int(0.975 * len(means)))]
