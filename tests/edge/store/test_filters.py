"""Filters are read strictly and hold before the best are chosen."""

from __future__ import annotations

from typing import Any

import pytest

from edge.errors import UsageError
from edge.store.filters import Condition, Filter
from edge.store.search import Searcher


def test_expressions_become_conditions() -> None:
    found = Filter.parse(["type=CSV", " date >= 2026-01-01 ", "source=*manual*", "tag!=old=er"])
    assert found.conditions == (
        Condition("type", "=", "csv"),
        Condition("date", ">=", "2026-01-01"),
        Condition("source", "=", "*manual*"),
        Condition("tag", "!=", "old=er"),
    )
    assert not Filter.parse([])


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("typ=csv", "unknown key 'typ'.*source, type, language, tag, date"),
        ("type", "cannot be read"),
        ("type=", "has no value"),
        ("language>en", "= or !="),
        ("date=yesterday", "2026-11-22"),
        ("date>=2026-1-1", "2026-11-22"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(expression: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Filter.parse([expression])


CASES = [
    (["type=csv"], {"errors"}),
    (["type=csv", "type=md"], {"errors", "håndbok"}),
    (["type!=csv"], {"manual", "håndbok", "log"}),
    (["language=no"], {"håndbok"}),
    (["tag=pump"], {"manual", "log"}),
    (["tag!=pump"], {"errors", "håndbok"}),
    (["tag=pump", "type=txt"], {"log"}),
    (["tag=pu"], set()),
    (["date>=2026-02-01"], {"håndbok", "log"}),
    (["date>=2026-01-10", "date<2026-03"], {"errors", "håndbok"}),
    (["date=2026-01"], {"manual", "errors"}),
    (["date>2026"], set()),
    (["source=*man*"], {"manual"}),
    (["source=manual.pdf"], {"manual"}),
    (["source=nual.pdf"], set()),
    (["source=/box/docs/*"], {"manual", "errors", "håndbok", "log"}),
    (["source!=*.pdf"], {"errors", "håndbok", "log"}),
    (["source=*'; DROP TABLE chunks; --"], set()),
]


@pytest.mark.parametrize(("expressions", "expected"), CASES)
def test_both_arms_filter_before_they_choose(kit: Any, expressions: list[str], expected: set[str]) -> None:
    """A depth of one per chunk that may be found, among 200 that may not: a filter afterwards would find nothing."""
    with kit.open() as store:
        for name, kind, language, tags, date in (
            ("manual", "pdf", "en", ("pump", "a'b"), "2026-01-01"),
            ("errors", "csv", "en", (), "2026-01-31"),
            ("håndbok", "md", "no", ("other",), "2026-02-01"),
            ("log", "txt", "en", ("pump", "daily"), "2026-03-01"),
        ):
            source = f"/box/docs/{name}.{kind}"
            kit.put(store, kit.document(source, "shared", type=kind, language=language, tags=tags, date=date))
        for number in range(200):
            other = kit.document(f"/other/{number}.bin", "shared shared", type="x", language="xx", date="1999-01-01")
            kit.put(store, other)
        where, searcher = Filter.parse([*expressions, "type!=x"]), Searcher(store)
        for ids in (
            [id for id, _ in searcher.dense(kit.vectors(1)[0], 4, where)],
            searcher.lexical(["share", "shared"], 4, where),
        ):
            names = {found.document.split("/")[-1].split(".")[0] for found in searcher.found(ids).values()}
            assert names == expected
