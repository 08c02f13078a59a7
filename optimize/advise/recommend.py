"""Measured cells to a recommendation in plain words; every reason names the cells that it rests on (pure).

The rule: of the arms that meet the wishes, take the one that costs least to keep up and is not worse than the best. An
arm is worse where the whole 95% interval of the difference of F1 is above 0, and as good where it ends below MARGIN;
where neither holds, more questions are needed and the advice says how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optimize.advise.arms import NAMES, TITLES, Name
from optimize.advise.figures import MARGIN, Cell, Column, Difference

Changes = Literal["never", "yearly", "monthly", "weekly", "daily"]
_A_YEAR = {"never": 0, "yearly": 1, "monthly": 12, "weekly": 52, "daily": 365}
_OFTEN = 52  # changes a year from which a model alone is out of date too much of the time
LOW_F1 = 0.3  # below it, answers are more often wrong than of use
FEW_EXAMPLES = 200  # questions to train on below which a model learns the form of answers, and little else


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user wants besides good answers."""

    changes: Changes = "monthly"  # how often the documents change
    sources: bool = True  # answers must show where they come from


@dataclass(frozen=True, slots=True)
class Training:
    """What the tuned arms were made of."""

    questions: int
    unfound: int  # of them, those whose answer is in no passage that a search finds
    failed: str | None = None  # why there are no tuned arms


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence, and the cells that it rests on, as "arm.figure"."""

    text: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, why, and what would change it."""

    choice: Name | None  # None: inconclusive
    headline: str
    reasons: tuple[Reason, ...]
    would_change: tuple[str, ...]
    more_questions: int  # that would settle it; 0 where it is settled


def recommend(
    columns: Mapping[Name, Column],
    differences: Mapping[tuple[Name, Name], Difference],
    wishes: Wishes,
    training: Training,
) -> Advice:
    """The advice for these figures.

    :raises ValueError: no arm meets the wishes, because none was measured.
    """
    allowed = [name for name in NAMES if name in columns and _is_allowed(name, wishes)]
    if not allowed:
        raise ValueError("no arm that meets the wishes was measured")
    best = max(allowed, key=lambda name: _f1(columns[name]))
    choice, open_pair = _choose(allowed, best, differences)
    more = max(1, open_pair.needed - open_pair.questions) if open_pair else 0
    reasons = [
        *_on_documents(columns, differences),
        *_on_tuning(columns, differences, training),
        *_on_sources(columns, wishes),
        *_on_updates(columns, wishes),
        *_on_level(columns, best),
    ]
    return Advice(
        choice=choice,
        headline=_headline(choice, best, open_pair, more),
        reasons=tuple(reasons),
        would_change=tuple(_would_change(columns, allowed, choice, wishes, training, more)),
        more_questions=more,
    )


def _is_allowed(name: Name, wishes: Wishes) -> bool:
    if name in ("rag", "both"):
        return True
    return not wishes.sources and (name == "base" or _A_YEAR[wishes.changes] < _OFTEN)


def _choose(
    allowed: Sequence[Name], best: Name, differences: Mapping[tuple[Name, Name], Difference]
) -> tuple[Name | None, Difference | None]:
    for name in allowed:
        if name == best:
            break
        found = differences[name, best]
        if found.high <= MARGIN:
            return name, None
        if found.low <= 0:
            return None, found
    return best, None


def _headline(choice: Name | None, best: Name, pair: Difference | None, more: int) -> str:
    if choice is not None:
        return {
            "base": "Take the model as it is: neither documents nor tuning make its answers better.",
            "rag": "Take RAG with the model as it is.",
            "tuned": "Take the fine-tuned model alone.",
            "both": "Take both: the fine-tuned model, with RAG.",
        }[choice]
    assert pair is not None
    return (
        f"Inconclusive: {TITLES[best]} is ahead of {TITLES[pair.first]} by {pair.value:.3f} F1, and "
        f"{pair.questions} questions cannot tell that from chance. You would need about {more} more questions."
    )


def _on_documents(
    columns: Mapping[Name, Column], differences: Mapping[tuple[Name, Name], Difference]
) -> Iterator[Reason]:
    if found := differences.get(("base", "rag")):
        yield Reason(
            f"Documents at hand {_effect(found)} the F1 of the model as it is: {_shown(columns['base'].f1)} without, "
            f"{_shown(columns['rag'].f1)} with them ({_interval(found)}).",
            ("base.f1", "rag.f1"),
        )


def _on_tuning(
    columns: Mapping[Name, Column], differences: Mapping[tuple[Name, Name], Difference], training: Training
) -> Iterator[Reason]:
    if training.failed:
        yield Reason(f"There are no figures for a tuned model: {training.failed}", ())
    if found := differences.get(("rag", "both")):
        yield Reason(
            f"Fine-tuning {_effect(found)} F1 where documents are at hand: {_shown(columns['rag'].f1)} before, "
            f"{_shown(columns['both'].f1)} after ({_interval(found)}).",
            ("rag.f1", "both.f1"),
        )
    if found := differences.get(("base", "tuned")):
        yield Reason(
            f"Fine-tuning {_effect(found)} F1 where there are none: {_shown(columns['base'].f1)} before, "
            f"{_shown(columns['tuned'].f1)} after ({_interval(found)}).",
            ("base.f1", "tuned.f1"),
        )
    if not training.failed and training.questions < FEW_EXAMPLES:
        yield Reason(
            f"{training.questions} questions to train on are few: a small set teaches the form of answers, and little "
            "else. `edge optimize curve` measures whether more would help.",
            (),
        )
    if training.unfound * 5 > training.questions:
        yield Reason(
            f"The answers of {training.unfound} of {training.questions} questions to train on stand word for word in "
            "no passage that a search finds: mend the search or the answers first.",
            (),
        )


def _on_sources(columns: Mapping[Name, Column], wishes: Wishes) -> Iterator[Reason]:
    alone: set[Name] = {"base", "tuned"}
    with_sources = [n for n in NAMES if n in columns and n not in alone and columns[n].grounded.value is not None]
    if with_sources:
        shares = ", ".join(f"{TITLES[name]} {_shown(columns[name].grounded)}" for name in with_sources)
        wish = "Answers must show their sources, which a model alone cannot" if wishes.sources else "Sources"
        yield Reason(
            f"{wish}; share of answers that rest on cited spans: {shares}.",
            tuple(f"{name}.grounded" for name in with_sources),
        )


def _on_updates(columns: Mapping[Name, Column], wishes: Wishes) -> Iterator[Reason]:
    known = {name: columns[name].cost.update_sec for name in NAMES if name in columns}
    told = [f"{TITLES[name]} {minutes(seconds)}" for name, seconds in known.items() if seconds is not None]
    if told and wishes.changes != "never":
        yield Reason(
            f"The documents change {wishes.changes}. After a tenth of them did, an update takes: {', '.join(told)}.",
            tuple(f"{name}.update_sec" for name, seconds in known.items() if seconds is not None),
        )


def _on_level(columns: Mapping[Name, Column], best: Name) -> Iterator[Reason]:
    if _f1(columns[best]) < LOW_F1:
        yield Reason(
            f"None of them answers well: the best, {TITLES[best]}, reaches {_shown(columns[best].f1)}. A larger model "
            "or better data matter more than the choice between the four.",
            (f"{best}.f1",),
        )


def _would_change(
    columns: Mapping[Name, Column],
    allowed: Sequence[Name],
    choice: Name | None,
    wishes: Wishes,
    training: Training,
    more: int,
) -> Iterator[str]:
    if more:
        yield f"{more} more questions with answers, on other documents."
    if wishes.sources and "tuned" in columns and "tuned" not in allowed:
        yield (
            "If answers need not show their sources: the fine-tuned model alone reaches F1 "
            f"{_shown(columns['tuned'].f1)}, and ships no index."
        )
    if choice in ("rag", "base") and not training.failed and training.questions < FEW_EXAMPLES:
        yield f"More questions to train on than {training.questions}: measure again with a few hundred."
    if choice == "both":
        yield "If nobody can train again when the language of the documents changes: RAG alone."
    if choice == "tuned":
        yield "If the documents change weekly or oftener, or answers must show their sources: RAG, alone or besides."
    if choice in ("rag", "both") and wishes.changes in ("weekly", "daily"):
        yield "If the documents stay as they are for long, a re-training after each change weighs less."


def _f1(column: Column) -> float:
    return column.f1.value if column.f1.value is not None else 0.0


def _effect(found: Difference) -> str:
    if found.low > 0:
        return "raise" if found.second == "rag" else "raises"
    if found.high < 0:
        return "lower" if found.second == "rag" else "lowers"
    return "do not measurably change" if found.second == "rag" else "does not measurably change"


def _interval(found: Difference) -> str:
    return f"difference {found.value:+.3f}, 95% between {found.low:+.3f} and {found.high:+.3f}"


def _shown(cell: Cell) -> str:
    return "-" if cell.value is None else f"{cell.value:.3f}"


def minutes(seconds: float) -> str:
    """A time for a person: seconds below two minutes, else minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
