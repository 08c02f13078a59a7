"""Texts that say the same: exactly, nearly, or in part. Linear in the number of texts, but for the pairs it finds.

Near duplicates: Broder's MinHash over shingles (Broder, "On the resemblance and containment of documents", 1997) finds
candidates by locality-sensitive hashing in bands (Leskovec et al., "Mining of Massive Datasets", 3.4); each candidate
is then compared exactly, so no pair is reported that is none. Containment: the share of a text's word n-grams that
others hold, the usual measure of test data in training data (Brown et al., 2020, appendix C, with n = 13).
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIMILAR = 0.8  # least Jaccard index of the shingles of near duplicates
_CHARACTERS = 5  # of a shingle
_BANDS, _ROWS = 20, 4  # two texts at a Jaccard index of 0.8 share a band with probability 0.99997
_COMPARED = 8  # candidates in a bucket that each text is compared with
_NGRAM = 13  # words
_PRIME = np.uint64(2**31 - 1)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Groups:
    """Which texts say the same, as positions in what was given; each group has two members at least."""

    exact: tuple[tuple[int, ...], ...]
    near: tuple[tuple[int, ...], ...]  # one position for each text that stands there more than once


def normal(text: str) -> str:
    """Words alone, case folded: texts that differ in nothing else are the same."""
    return " ".join(_WORD.findall(text.casefold()))


def groups(texts: Sequence[str], similar: float = SIMILAR) -> Groups:
    """Exact duplicates (after `normal`) and near ones among the rest; texts without a word are left out."""
    same: dict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(texts):
        if key := normal(text):
            same[key].append(at)
    exact = tuple(tuple(members) for members in same.values() if len(members) > 1)
    keys = list(same)
    parents = list(range(len(keys)))
    for one, other in _pairs(keys, similar):
        parents[_root(parents, other)] = _root(parents, one)
    joined: dict[int, list[int]] = defaultdict(list)
    for at, key in enumerate(keys):
        joined[_root(parents, at)].append(same[key][0])
    return Groups(exact, tuple(tuple(members) for members in joined.values() if len(members) > 1))


def crossing(left: Sequence[str], right: Sequence[str], similar: float = SIMILAR) -> list[tuple[int, int]]:
    """For each text of `right` that nearly or exactly stands in `left`: the positions of both, once each."""
    keys = [normal(text) for text in (*left, *right)]
    first: dict[str, int] = {}
    for at, key in enumerate(keys[: len(left)]):
        first.setdefault(key, at)
    found = {at: first[key] for at, key in enumerate(keys[len(left) :]) if key and key in first}
    for one, other in _pairs(keys, similar, sides=len(left)):
        found.setdefault(other - len(left), one)
    return [(there, at) for at, there in sorted(found.items())]


def contained(left: Iterable[str], right: Sequence[str]) -> list[float]:
    """The share, 0..1, of each text of `right` whose runs of 13 words stand in `left`, too short ones as a whole."""
    known: set[int] = set()
    for text in left:
        known.update(_ngrams(text))
    shares: list[float] = []
    for text in right:
        own = _ngrams(text)
        shares.append(sum(gram in known for gram in own) / len(own) if own else 0.0)
    return shares


def _ngrams(text: str) -> list[int]:
    words = normal(text).split()
    if len(words) < _NGRAM:
        return [hash(tuple(words))] if words else []
    return [hash(tuple(words[at : at + _NGRAM])) for at in range(len(words) - _NGRAM + 1)]


def _root(parents: list[int], at: int) -> int:
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = parents[at]
    return at


def _pairs(keys: Sequence[str], similar: float, sides: int | None = None) -> Iterator[tuple[int, int]]:
    """Pairs of different keys that are near each other; with `sides` only those from before it to after it."""
    shingled = [_shingles(key) for key in keys]
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    seen: set[tuple[int, int]] = set()
    for at, shingles in enumerate(shingled):
        if not len(shingles):
            continue
        for band, rows in enumerate(_signature(shingles).reshape(_BANDS, _ROWS)):
            bucket = buckets[band, rows.tobytes()]
            for other in bucket:
                pair = (other, at)
                if sides is not None and at < sides:
                    break
                if pair in seen or keys[other] == keys[at]:
                    continue
                seen.add(pair)
                if _jaccard(shingled[other], shingles) >= similar:
                    yield pair
            # A crowded bucket is compared with its first few: what is near them all is found through them.
            if len(bucket) < _COMPARED and (sides is None or at < sides):
                bucket.append(at)


def _shingles(key: str) -> NDArray[np.uint64]:
    """Distinct hashes of the runs of characters of a text, sorted."""
    data = key.encode("utf-8", "surrogatepass")
    runs = {data[at : at + _CHARACTERS] for at in range(max(len(data) - _CHARACTERS + 1, 1))} if data else set()
    return np.unique(np.fromiter((zlib.crc32(run) for run in runs), dtype=np.uint64, count=len(runs)))


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _factors() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    rng = np.random.default_rng(0)
    count = _BANDS * _ROWS
    return (
        rng.integers(1, int(_PRIME), count, dtype=np.uint64)[:, None],
        rng.integers(0, int(_PRIME), count, dtype=np.uint64)[:, None],
    )


_SCALES, _SHIFTS = _factors()


def _signature(shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """uint64 (bands * rows,): the least value of each hash function, (a x + b) mod a prime, over the shingles."""
    values: NDArray[np.uint64] = ((_SCALES * (shingles % _PRIME) + _SHIFTS) % _PRIME).min(axis=1)
    return values
