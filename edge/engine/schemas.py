"""Whether an answer can be held to a JSON schema, as far as the generator library does not say so itself. (pure)

The library refuses keywords that it cannot enforce, and values that cannot be. It does not see two kinds of recursion:
- a schema that refers to itself about the same value (`{"$ref": "#"}`): it says nothing of the value, and the answer
  would be empty. JSON Schema forbids it: https://json-schema.org/draft/2020-12/json-schema-core#section-9.4.1
- a schema whose every value holds another one of its kind (a list node that requires its next node): the answer would
  never end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import unquote

from edge.errors import UsageError

MOST_BYTES = 256 * 2**10
"""Of a schema's text. The library takes some 80 bytes of memory for each, and a second to refuse what is too much."""
_SAME = ("allOf", "anyOf", "oneOf")
"""Keywords whose schemas are about the same value."""
_INSIDE = ("properties", "patternProperties")
"""Keywords that hold schemas by name, about what is inside the value."""
_ITEMS = ("items", "prefixItems", "additionalProperties", "additionalItems")

_OPTIONS = "x-guidance"
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def one_line(text: str) -> str:
    """The schema with an order to write its JSON on one line.

    Where white space is free, a small model may write it until `max_tokens`; and it pays a token for each line's start.
    """
    schema = json.loads(text)
    if schema is True:
        schema = {}
    return json.dumps(schema | {_OPTIONS: _ONE_LINE}) if isinstance(schema, dict) else text


def check_schema(text: str) -> None:
    """Refuse a JSON schema that no answer can be held to.

    :raises UsageError: says why.
    """
    if len(text) > MOST_BYTES:
        raise UsageError(f"the json_schema has {len(text)} characters and at most {MOST_BYTES} can be enforced")
    try:
        schema = json.loads(text)
        if isinstance(schema, dict):
            if _OPTIONS in schema:
                raise UsageError(
                    f"the json_schema has the key {_OPTIONS}, which can turn off its enforcement: remove it"
                )
            _check_recursion(_Schema(schema))
    except ValueError as error:
        raise UsageError(f"the json_schema is not JSON: {error}") from None
    except RecursionError:
        raise UsageError("the json_schema cannot be enforced: it is nested too deeply") from None


def _check_recursion(schema: _Schema) -> None:
    reached = schema.reached()
    try:
        TopologicalSorter({id(one): [id(other) for other in schema.same(one)] for one in reached}).prepare()
    except CycleError:
        raise UsageError(
            "the json_schema cannot be enforced: a $ref in it leads back to itself without a property or an item in "
            "between, which says nothing of the value"
        ) from None
    if _endless(schema, reached):
        raise UsageError(
            "the json_schema cannot be enforced: every value of it, or of a part of it, would hold another one and so "
            "have no end: do not require the part that repeats, or allow null in its place"
        )


def _endless(schema: _Schema, reached: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The schemas that no finite value fits, because of what they refer to."""
    ending: set[int] = set()
    left = reached[::-1]  # what is inside comes first
    while True:
        still = []
        for one in left:
            if schema.ends(one, ending):
                ending.add(id(one))
            else:
                still.append(one)
        if len(still) in (0, len(left)):
            return still
        left = still


class _Schema:
    """A schema as a graph: its nodes are the objects that are schemas. What is no local `$ref` leads nowhere."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._id = root.get("$id")

    def reached(self) -> list[dict[str, Any]]:
        """Every schema that the root has to do with."""
        found = {id(self._root): self._root}
        queue = [self._root]
        for one in queue:
            for other in (*self.same(one), *_inside(one)):
                if id(other) not in found:
                    found[id(other)] = other
                    queue.append(other)
        return queue

    def same(self, one: dict[str, Any]) -> list[dict[str, Any]]:
        """The schemas that are about the same value as this one."""
        found = [other for key in _SAME for other in _schemas(one.get(key))]
        target = self._target(one)
        return found if target is None else [target, *found]

    def ends(self, one: dict[str, Any], ending: set[int]) -> bool:
        """Whether some finite value fits, given those of which that is known."""

        def known(other: object) -> bool:
            return not isinstance(other, dict) or id(other) in ending

        target = self._target(one)
        if not (target is None or known(target)) or not all(map(known, _schemas(one.get("allOf")))):
            return False
        if any(one.get(key) and not any(map(known, _listed(one[key]))) for key in ("anyOf", "oneOf")):
            return False
        kinds = one.get("type")
        if "const" in one or "enum" in one or not isinstance(kinds, str | list):
            return True
        fitting = {"object": lambda: all(map(known, _required(one))), "array": lambda: all(map(known, _first(one)))}
        return any(kind not in fitting or fitting[kind]() for kind in _listed(kinds) if isinstance(kind, str))

    def _target(self, one: dict[str, Any]) -> dict[str, Any] | None:
        reference = one.get("$ref")
        if not isinstance(reference, str):
            return None
        if isinstance(self._id, str) and reference.startswith(self._id):
            reference = reference[len(self._id) :] or "#"
        pointer = unquote(reference[1:])
        if not reference.startswith("#") or (pointer and not pointer.startswith("/")):
            return None
        found: Any = self._root
        for step in pointer.split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return None
        return found if isinstance(found, dict) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _schemas(value: Any) -> list[dict[str, Any]]:
    return [one for one in _listed(value) if isinstance(one, dict)]


def _inside(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas of what a value of this one holds."""
    for key in _INSIDE:
        if isinstance(held := one.get(key), dict):
            yield from _schemas(list(held.values()))
    for key in _ITEMS:
        yield from _schemas(one.get(key))


def _required(one: dict[str, Any]) -> list[Any]:
    """The schemas of the properties that every object of this schema has."""
    properties = one.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    others = None if one.get("patternProperties") else one.get("additionalProperties")
    return [properties.get(name, others) for name in _listed(one.get("required", [])) if isinstance(name, str)]


def _first(one: dict[str, Any]) -> list[Any]:
    """The schemas of the items that every array of this schema has."""
    least = one.get("minItems", 0)
    least = int(least) if isinstance(least, int | float) and 0 < least < 2**31 else 0
    items = one.get("items")
    given = _listed(one.get("prefixItems") or (items if isinstance(items, list) else []))
    rest = one.get("additionalItems") if isinstance(items, list) else items
    return [*given[:least], *([rest] if least > len(given) else [])]
