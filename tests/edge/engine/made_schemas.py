"""JSON schemas made up from a seed: good ones, impossible ones, recursive ones, and keywords at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

NAMES = ("id", "name", "size", "kind", "next", "left", "æøå", "a b", "$ref", "")


def schemas(seed: int, count: int) -> Iterator[Any]:
    for number in range(count):
        yield _Maker(random.Random(f"{seed}/{number}")).root()


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._defined = [f"d{number}" for number in range(rng.choice((0, 0, 0, 1, 2)))]

    def root(self) -> Any:
        made = self._schema(3)
        if self._defined and isinstance(made, dict):
            made["$defs"] = {name: self._schema(2) for name in self._defined}
        return made

    def _schema(self, depth: int) -> Any:
        kinds: list[Callable[[int], Any]] = [self._text, self._number, self._choice]
        if depth:
            kinds += [self._object, self._object, self._object, self._array, self._mixed]
        if self._rng.random() < 0.15:
            kinds = [self._reference, self._odd, self._odd, lambda depth: self._rng.choice((True, False, {}))]
        return self._rng.choice(kinds)(depth - 1)

    def _some(self, chance: float, **keywords: Any) -> dict[str, Any]:
        return {name: value for name, value in keywords.items() if self._rng.random() < chance}

    def _text(self, _: int) -> dict[str, Any]:
        rng = self._rng
        patterns = ("^[a-z]{1,8}$", "^(ja|nei)$", "[0-9]+", "^\\d{4}-\\d{2}$", "^a*b+$")
        formats = ("date", "time", "email", "uuid", "ipv4", "uri", "hostname", "shoe-size")
        shape = rng.choice(({}, {"pattern": rng.choice(patterns)}, {"format": rng.choice(formats)}))
        return {"type": "string"} | self._some(0.4, minLength=rng.randrange(6), maxLength=rng.randrange(14)) | shape

    def _number(self, _: int) -> dict[str, Any]:
        rng = self._rng
        least = rng.choice((-100, -1, 0, 1, 2.5, 17))
        bounds = self._some(0.4, minimum=least, maximum=least + rng.choice((-1, 0, 3, 1000)), exclusiveMinimum=least)
        return {"type": rng.choice(("integer", "number"))} | bounds | self._some(0.1, multipleOf=rng.choice((1, 2, 5)))

    def _choice(self, _: int) -> dict[str, Any]:
        values: list[Any] = ["red", "blå", 7, -2.5, None, True, [1, "x"], {"a": {"b": []}}, 'a"\n\\']
        if self._rng.random() < 0.4:
            return {"const": self._rng.choice(values)}
        return {"enum": self._rng.sample(values, self._rng.randrange(0, 6))} | self._some(0.2, type="string")

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._rng.sample(NAMES, self._rng.randrange(0, 5))
        made: dict[str, Any] = {"type": "object", "properties": {name: self._schema(depth) for name in names}}
        required = [name for name in names if self._rng.random() < 0.7]
        others = self._rng.choice((False, False, False, True, self._schema(0)))
        return made | self._some(0.9, required=required) | self._some(0.9, additionalProperties=others)

    def _array(self, depth: int) -> dict[str, Any]:
        least = self._rng.randrange(4)
        bounds = self._some(0.6, minItems=least) | self._some(0.8, maxItems=least + self._rng.choice((-1, 0, 1, 2)))
        first = self._some(0.2, prefixItems=[self._schema(depth) for _ in range(self._rng.randrange(1, 3))])
        return {"type": "array", "items": self._schema(depth)} | bounds | first

    def _mixed(self, depth: int) -> dict[str, Any]:
        key = self._rng.choice(("anyOf", "anyOf", "oneOf", "allOf"))
        return {key: [self._schema(depth) for _ in range(self._rng.randrange(0, 4))]}

    def _reference(self, _: int) -> dict[str, Any]:
        there = ["#", *(f"#/$defs/{name}" for name in self._defined)] * 3
        return {"$ref": self._rng.choice((*there, "#/$defs/none", "https://example.com/a.json", "#anchor"))}

    def _odd(self, depth: int) -> dict[str, Any]:
        inner = self._schema(max(0, depth))
        odd: list[dict[str, Any]] = [
            {"not": inner}, {"type": "nonsense"}, {"type": []}, {"type": ["string", "null"]}, {"required": ["a"]},
            {"type": "object", "minProperties": 2}, {"type": "object", "propertyNames": {"maxLength": 3}},
            {"type": "object", "patternProperties": {"^x": inner}}, {"type": "array", "uniqueItems": True},
            {"type": "array", "contains": inner}, {"if": inner, "then": inner}, {"minimum": "low"}, {"maxLength": -1},
            {"type": "string", "pattern": "("}, {"type": "string", "pattern": "(?=a)b"}, {"enum": "red"},
            {"properties": []}, {"items": 3}, {"minimum": 10**40, "type": "integer"}, {"$defs": 1, "title": "none"},
            {"type": "array", "items": inner, "minItems": 10**7}, {"type": "string", "minLength": 10**9},
            {"$dynamicRef": "#"}, {"unevaluatedProperties": False}, {"dependentRequired": {"a": ["b"]}},
        ]  # fmt: skip
        return self._rng.choice(odd)
