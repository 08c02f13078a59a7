"""One namespace's documents are never found for another, whatever the names and filters."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.store.filters import Filter, Reach
from edge.store.search import Searcher

ROOT = "/state/[do]cuments*"  # letters that GLOB takes for a pattern
NAMES = st.text("abA._-0", min_size=1, max_size=4).filter(lambda name: name[0].isalnum())
PLACES = st.tuples(st.one_of(st.none(), NAMES), st.text("ab*?[]é .#", min_size=1, max_size=6))
FILTERS = st.lists(st.sampled_from(["source=*", "source=*a*", "type=txt", "source!=*zz*", "type!=csv"]), max_size=2)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(PLACES, min_size=1, max_size=8, unique=True), asking=NAMES, expressions=FILTERS)
@example(places=[("a", "x"), ("ab", "x"), (None, "x")], asking="a", expressions=[])  # one name begins like another
@example(places=[("A", "x"), ("a", "x")], asking="a", expressions=["source=*"])
def test_no_document_of_another_namespace_is_found(
    kit: Any, places: list[tuple[str | None, str]], asking: str, expressions: list[str]
) -> None:
    reach = Reach(ROOT, f"{ROOT}/{asking}")
    with tempfile.TemporaryDirectory() as folder:
        kit.path = Path(folder) / "index.db"
        with kit.open() as store:
            sources = {f"{ROOT}/{owner}/{name}" if owner else f"/home/{name}": owner for owner, name in places}
            for source in sources:
                kit.put(store, kit.document(source, "shared words"))
            searcher, where = Searcher(store), Filter(Filter.parse(expressions).conditions, reach)
            dense = [id for id, _ in searcher.dense(kit.vectors(1)[0], 50, where)]
            lexical = searcher.lexical(["share", "word"], 50, where)
            for ids in (dense, lexical):
                found = {one.document for one in searcher.found(ids).values()}
                assert all(sources[source] in (None, asking) for source in found)
                assert all(reach.holds(source) for source in found)
                if not expressions:
                    assert found == {source for source, owner in sources.items() if owner in (None, asking)}
