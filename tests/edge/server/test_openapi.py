"""The OpenAPI document: every route is in it, and it is well-formed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from edge.server.app import ROUTES
from edge.server.guard import needed_scope
from edge.server.openapi import OPERATIONS, document

DOCUMENT = document()


def is_of_the_page(route: Any) -> bool:
    return str(route.endpoint.__module__).startswith("edge.server.page")


def test_every_route_is_in_it_and_nothing_else() -> None:
    routes = {
        (method.lower(), route.path)
        for route in ROUTES
        for method in route.methods or ()
        if method != "HEAD" and not is_of_the_page(route)
    }
    assert {(one.method, one.path) for one in OPERATIONS} == routes
    assert {(method, path) for path, found in DOCUMENT["paths"].items() for method in found} == routes


def test_no_route_is_hidden_by_one_before_it() -> None:
    seen = [(method, route.path) for route in ROUTES for method in route.methods or ()]
    assert len(seen) == len(set(seen))


def test_every_reference_is_there() -> None:
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    used = {value for key, value in pairs(DOCUMENT) if key == "$ref"}
    assert used == known


def pairs(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in [(key, inner), *pairs(inner)]]
    return [pair for inner in value for pair in pairs(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_its_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_its_operations_have_names_of_their_own() -> None:
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method}-{one.path}")
def test_it_says_which_key_is_needed(operation: Any) -> None:
    shown = DOCUMENT["paths"][operation.path][operation.method]
    scope = needed_scope(operation.path)
    assert shown["security"] == ([] if scope is None else [{"key": [scope]}, {}])
    assert ("401" in shown["responses"]) == (scope is not None)
    assert "500" not in shown["responses"]


def test_it_is_json() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1")
