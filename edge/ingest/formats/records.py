"""JSON and JSON Lines: one block per record, nested objects as dotted names: "network.mtu: 1500; network.dns: ...".

A list of objects is a table. An object's lists of objects are tables under their name, its nested objects one record
each under their name, and its plain values one record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from edge.errors import DocumentError
from edge.ingest.formats.base import Builder, Parsed, Source, clean, record, squeeze
from edge.ingest.formats.encoding import decode


def parse(source: Source) -> list[Parsed]:
    """:raises DocumentError: not JSON; says where. Or nested deeper than Python reads."""
    text = decode(source.data)
    builder = Builder(source.max_chars)
    if source.type == "jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                _row(builder, _load(line, f"line {number}: "))
        return [builder.build()]
    value = _load(text, "")
    if isinstance(value, dict):
        _object(builder, value)
    elif isinstance(value, list):
        for item in value:
            _row(builder, item)
    else:
        builder.text(_plain(value))
    return [builder.build()]


def _load(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}, column {error.colno}: "
        raise DocumentError(f"is not JSON: {place}{error.msg}") from None
    except RecursionError:
        raise DocumentError(f"{where}is nested too deeply to be read") from None
    except ValueError as error:  # e.g. an integer of more digits than Python converts
        raise DocumentError(f"{where}cannot be read: {error}") from None


def _object(builder: Builder, value: dict[str, Any]) -> None:
    def tabular(item: Any) -> bool:
        return isinstance(item, list) and bool(item) and all(isinstance(entry, dict) for entry in item)

    plain = {key: item for key, item in value.items() if not isinstance(item, dict) and not tabular(item)}
    _row(builder, plain)
    for key, item in value.items():
        if isinstance(item, dict) and item:
            builder.heading(key, 1)
            _row(builder, item)
        elif tabular(item):
            builder.heading(key, 1)
            for entry in item:
                _row(builder, entry)


def _row(builder: Builder, value: Any) -> None:
    pairs = list(_flatten(value))
    builder.row(record([squeeze(clean(name), 120) for name, _ in pairs], [text for _, text in pairs]))


def _flatten(value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names and texts of a value's leaves, in order; a list of plain values is one leaf. Not recursive."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        name, item = stack.pop()
        if isinstance(item, dict):
            stack += [(f"{name}.{key}" if name else str(key), entry) for key, entry in reversed(item.items())]
        elif isinstance(item, list) and any(isinstance(entry, dict | list) for entry in item):
            stack += [(f"{name}.{index}" if name else str(index), entry) for index, entry in enumerate(item)][::-1]
        elif isinstance(item, list):
            yield name, ", ".join(filter(None, map(_plain, item)))
        else:
            yield name, _plain(item)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
