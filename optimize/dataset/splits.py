"""Training and held-out examples, split by document: two questions on one text never stand on different sides.

A document's side depends on the hash of its name and the seed alone, so it stays where it is when others are added.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import DatasetError, UsageError
from edge.files import write_atomic
from optimize.dataset.examples import Example

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Split:
    """Two sides that share no document."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    seed: int | None = None  # None: the documents were named

    @property
    def digest(self) -> str:
        """Hex sha256 of both sides' contents: what a stage that reads them is found again by."""
        return hashlib.sha256(f"{digest_of(self.train)} {digest_of(self.held_out)}".encode()).hexdigest()


def split(examples: Sequence[Example], *, held_out: float | Collection[str] = 0.1, seed: int = 0) -> Split:
    """Hold out some documents with all of their questions.

    :param held_out: the share of documents, between 0 and 1, drawn by hash of their names (at least one stays on each
        side); or their names.
    :raises UsageError: the share is out of range.
    :raises DatasetError: there are fewer than two documents, or a name is none of theirs.
    """
    documents = {example.document for example in examples}
    if len(documents) < 2:
        raise DatasetError(
            f"{len(examples)} examples of {len(documents)} document(s) cannot be split: it takes two documents at "
            'least. Add examples of others; name each one\'s document in the key "document"'
        )
    if not isinstance(held_out, float | int):
        chosen = set(held_out)
        if unknown := sorted(chosen - documents):
            raise DatasetError(f"no example is of these documents: {_some(unknown)}. Check their names")
        if not chosen or chosen == documents:
            raise DatasetError("all documents would stand on one side: name some to hold out, but not all")
        return _sides(examples, chosen, None)
    if not 0 < held_out < 1:
        raise UsageError("the share to hold out must be between 0 and 1")
    places = sorted((_place(name, seed), name) for name in documents)
    chosen = {name for place, name in places if place < held_out} or {places[0][1]}
    chosen.discard(places[-1][1])
    return _sides(examples, chosen, seed)


def digest_of(examples: Iterable[Example]) -> str:
    """Hex sha256 of contents, whatever the order, the files and the lines they stand at."""
    lines = (json.dumps(_content(example), ensure_ascii=False, sort_keys=True) for example in examples)
    sums = sorted(hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest() for line in lines)
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def write_split(path: Path, made: Split) -> None:
    """Write down which documents are held out, with a digest of each side's contents."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "seed": made.seed,
        "digest": made.digest,
        "train": _side(made.train),
        "held_out": _side(made.held_out),
    }
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_split(path: Path, examples: Sequence[Example]) -> Split:
    """The split that was written down, of the same examples.

    :raises DatasetError: the file is none, or the examples are not those that were split: says what changed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise DatasetError(f"{path}: a split of schema {content['schema']}, known here: {SCHEMA}; split again")
        names = {side: {str(name) for name in content[side]["documents"]} for side in ("train", "held_out")}
        sums = {side: str(content[side]["sha256"]) for side in ("train", "held_out")}
        seed = None if content["seed"] is None else int(content["seed"])
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; write it with `edge optimize data split`") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path}: is no split: {error!r}; write it anew with `edge optimize data split`") from None
    present = {example.document for example in examples}
    if both := names["train"] & names["held_out"]:
        raise DatasetError(f"{path}: was changed: on both sides stand {_some(sorted(both))}; split again")
    for what, differing in (
        ("are new", present - names["train"] - names["held_out"]),
        ("are missing", (names["train"] | names["held_out"]) - present),
    ):
        if differing:
            raise DatasetError(
                f"{path}: the data changed since they were split: documents that {what}: {_some(sorted(differing))}. "
                "Name the same files, or split again"
            )
    made = _sides(examples, names["held_out"], seed)
    for side, found in (("train", made.train), ("held_out", made.held_out)):
        if digest_of(found) != sums[side]:
            raise DatasetError(
                f"{path}: the {side.replace('_', '-')} examples changed since they were split (other contents, or some "
                "more or fewer). Restore the files, or split again; results on the two do not compare"
            )
    return made


def _place(document: str, seed: int) -> float:
    """A number from 0 to 1, evenly distributed over documents."""
    digest = hashlib.sha256(f"{seed}\n{document}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _sides(examples: Sequence[Example], held_out: Collection[str], seed: int | None) -> Split:
    train = tuple(example for example in examples if example.document not in held_out)
    return Split(train, tuple(example for example in examples if example.document in held_out), seed)


def _side(examples: Sequence[Example]) -> dict[str, Any]:
    documents = sorted({example.document for example in examples})
    return {"examples": len(examples), "sha256": digest_of(examples), "documents": documents}


def _content(example: Example) -> dict[str, Any]:
    plain = dataclasses.asdict(example)
    del plain["origin"]
    return plain


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
