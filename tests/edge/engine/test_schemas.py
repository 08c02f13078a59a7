"""Schemas that an answer can be held to, and those that are refused; with the real default model.

EDGE_SCHEMA_CASES is how many are made up, and EDGE_SCHEMA_SEED what they are drawn from.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge import bundle
from edge.engine.base import EngineOptions, Guidance, Message, Sampling
from edge.engine.schemas import MOST_BYTES, check_schema, one_line
from edge.engine.worker import WorkerEngine
from edge.errors import UsageError
from tests.edge.engine.made_schemas import schemas

CASES = int(os.environ.get("EDGE_SCHEMA_CASES", "16"))
SEED = int(os.environ.get("EDGE_SCHEMA_SEED", "5"))
MOST_TOKENS = 40
LIST_NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
TREE = {
    "type": "object",
    "properties": {"value": {"enum": [1, 2]}, "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    "required": ["value", "kids"],
    "additionalProperties": False,
}


def checked(schema: Any) -> None:
    check_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$id": "https://example.com/a", "$ref": "https://example.com/a#"},
        {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/%24defs/a"}}},
        {"properties": {"x/y": {"oneOf": [{"$ref": "#/properties/x~1y"}]}}},
        {"anyOf": [{"allOf": [{"$ref": "#/anyOf/0"}]}]},
    ],
)
def test_a_reference_to_itself_about_the_same_value_is_refused(schema: Any) -> None:
    with pytest.raises(UsageError, match="leads back to itself"):
        checked(schema)


@pytest.mark.parametrize(
    "schema",
    [
        LIST_NODE,
        {"type": "object", "properties": {"list": LIST_NODE | {"properties": {"next": {"$ref": "#/properties/list"}}}}},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1},
        {"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["a"]},
        {
            "type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}},
            "$defs": {
                "a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 2},
                "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
            },
        },
    ],
)  # fmt: skip
def test_a_value_without_an_end_is_refused(schema: Any) -> None:
    with pytest.raises(UsageError, match="have no end"):
        checked(schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        TREE,
        {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},  # it may be left out
        {"type": ["object", "null"], "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "required": ["a", "b"], "properties": {"a": False}},  # the library's to say
        {"enum": [{"$ref": "#"}]},  # a value, not a schema
        {"properties": {"$ref": {"type": "string"}}},
        {"type": "array", "minItems": 1e400},
    ],
)
def test_other_recursion_is_left_to_the_library(schema: Any) -> None:
    checked(schema)


def test_what_is_too_large_or_too_deep_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="at most"):
        checked({"title": "x" * MOST_BYTES})
    with pytest.raises(UsageError, match="too deeply"):
        check_schema('{"items":' * 20_000 + "{}" + "}" * 20_000)
    chain: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(2000)}
    started = time.process_time()
    checked({"$ref": "#/$defs/d0", "$defs": chain | {"d2000": {"type": "string"}}})
    assert time.process_time() - started < 5


def test_one_line_says_nothing_about_values() -> None:
    for schema in (TREE, {}, True):
        asked = json.loads(one_line(json.dumps(schema)))
        asked.pop("x-guidance")
        assert asked == (schema or {} if schema is not True else {})
    assert one_line("false") == "false"


@pytest.fixture(scope="module")
def engine(default_bundle: Path) -> Iterator[WorkerEngine]:
    loaded = bundle.load(default_bundle)
    model, options = loaded.manifest.model, EngineOptions(context_tokens=512)
    engine = WorkerEngine(loaded.path / model.path, bundle.chat_template(loaded), model.stop_tokens, options)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prompt(engine: WorkerEngine) -> list[int]:
    return engine.encode(engine.render([Message("user", "Write JSON.")]))


def said(engine: WorkerEngine, prompt: list[int], schema: Any, **sampling: Any) -> tuple[str, str]:
    guidance = Guidance("json_schema", json.dumps(schema))
    session = engine.start(prompt, Sampling(max_tokens=MOST_TOKENS, guidance=guidance, **sampling))
    return "".join(token.text for token in session), session.stats.finish_reason


@pytest.mark.model
def test_three_thousand_optional_properties_are_refused_and_required_ones_are_not(
    engine: WorkerEngine, prompt: list[int]
) -> None:
    wide = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(3000)}}
    with pytest.raises(UsageError, match="Fewer optional properties"):
        said(engine, prompt, wide)
    text, _ = said(engine, prompt, wide | {"required": list(wide["properties"])})
    assert text.startswith('{"p0": "')


@pytest.mark.model
def test_a_tree_is_a_tree(engine: WorkerEngine, prompt: list[int]) -> None:
    text, reason = said(engine, prompt, TREE, temperature=1.5, seed=1)
    if reason == "stop":
        jsonschema.validate(json.loads(text), TREE)
    assert text.startswith('{"value": ')


@pytest.mark.model
def test_made_up_schemas_are_enforced_or_refused(engine: WorkerEngine, prompt: list[int]) -> None:
    """Any other error than `UsageError` would be a 5xx, and fails this."""
    counts = dict.fromkeys(("refused", "whole", "cut"), 0)
    for number, schema in enumerate(schemas(SEED, CASES)):
        told = f"{SEED}/{number}: {json.dumps(schema)}"
        try:
            text, reason = said(engine, prompt, schema, temperature=1.0, seed=number)
        except UsageError:
            counts["refused"] += 1
            continue
        assert text.strip(), told
        if reason == "stop":
            counts["whole"] += 1
            problems = list(jsonschema.Draft202012Validator(schema).iter_errors(json.loads(text)))
            assert not problems, f"{told}: {text}: {problems}"
        else:
            counts["cut"] += 1
    print(counts)
    assert min(counts["refused"], counts["whole"]) > 0
