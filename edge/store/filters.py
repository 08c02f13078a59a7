"""What a search is restricted to: 'type=csv', 'language=no', 'tag=pump', 'source=*manual*', 'date>=2026-01-01'."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edge.errors import UsageError

_FIELDS = {"source": "documents.source", "type": "documents.type", "language": "documents.language"}
_KEYS = (*_FIELDS, "tag", "date")
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*", re.DOTALL)
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
_HELP = (
    f"a filter is KEY=VALUE with one of the keys {', '.join(_KEYS)}; source takes a pattern such as '*manual*', "
    "date also takes >=, <=, > and <, as in 'date>=2026-01-01'"
)


@dataclass(frozen=True, slots=True)
class Condition:
    key: str
    operator: str  # "=", "!=", and for dates also ">=", "<=", ">", "<"
    value: str


@dataclass(frozen=True, slots=True)
class Reach:
    """Whose documents may be found: those in `folder`, and all that are not below `root`, where each has a folder."""

    root: str  # absolute path without "/" at its end
    folder: str  # below it

    def holds(self, source: str) -> bool:
        """Whether a document is within it."""
        return not source.startswith(f"{self.root}/") or source.startswith(f"{self.folder}/")


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on documents. Those of one key with "=" are alternatives; everything else must hold together."""

    conditions: tuple[Condition, ...] = ()
    reach: Reach | None = None

    @classmethod
    def parse(cls, expressions: Iterable[str]) -> Filter:
        """Read expressions such as 'type=csv'; an empty sequence filters nothing.

        :raises UsageError: an unknown key or operator, an empty value, or a date that is none.
        """
        return cls(tuple(_parse_one(expression) for expression in expressions))

    def __bool__(self) -> bool:
        return bool(self.conditions) or self.reach is not None

    def sql(self) -> tuple[str, list[str]]:
        """A condition over the table `documents`, and its parameters."""
        clauses: list[str] = []
        values: list[str] = []
        for key in dict.fromkeys(condition.key for condition in self.conditions):
            same = [c for c in self.conditions if c.key == key]
            alternatives = [c for c in same if c.operator == "="]
            if alternatives:
                clauses.append("(" + " OR ".join(_clause(c) for c in alternatives) + ")")
                values += [_value(c) for c in alternatives]
            for condition in (c for c in same if c.operator != "="):
                clauses.append(_clause(condition))
                values.append(_value(condition))
        if self.reach is not None:  # compared letter by letter: a path may hold what GLOB takes for a pattern
            root, own = self.reach.root + "/", self.reach.folder + "/"
            clauses.append(
                f"(substr(documents.source, 1, {len(root)}) <> ? OR substr(documents.source, 1, {len(own)}) = ?)"
            )
            values += [root, own]
        return " AND ".join(clauses) or "1", values


def _parse_one(expression: str) -> Condition:
    match = _CONDITION.fullmatch(expression)
    if match is None:
        raise UsageError(f"the filter {expression!r} cannot be read: {_HELP}")
    key, operator, value = match.groups()
    if key not in _KEYS:
        raise UsageError(f"the filter {expression!r} has the unknown key {key!r}: {_HELP}")
    if not value:
        raise UsageError(f"the filter {expression!r} has no value: {_HELP}")
    if key != "date" and operator not in ("=", "!="):
        raise UsageError(f"the filter {expression!r}: {key} can only be compared with = or !=")
    if key == "date" and not _DATE.fullmatch(value):
        raise UsageError(f"the filter {expression!r}: a date is written 2026, 2026-11 or 2026-11-22")
    return Condition(key, operator, value.lower() if key in ("type", "language") else value)


def _clause(condition: Condition) -> str:
    if condition.key == "tag":
        found = "EXISTS (SELECT 1 FROM json_each(documents.tags) WHERE value = ?)"
        return found if condition.operator == "=" else f"NOT {found}"
    if condition.key == "source":
        return f"documents.source {'' if condition.operator == '=' else 'NOT '}GLOB ?"
    if condition.key == "date":
        # A shorter date stands for the whole month or year: compare as many characters as it has.
        return f"substr(documents.date, 1, {len(condition.value)}) {condition.operator} ?"
    return f"{_FIELDS[condition.key]} {condition.operator} ?"


def _value(condition: Condition) -> str:
    """Sources are absolute paths: a pattern for the last part of one, such as 'errors.csv', goes for any folder."""
    if condition.key == "source" and not condition.value.startswith(("/", "*")):
        return f"*/{condition.value}"
    return condition.value
