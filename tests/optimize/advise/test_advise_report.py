"""The table and the page of an advice, from figures."""

from __future__ import annotations

import re

from optimize.advise.arms import NAMES, Row
from optimize.advise.figures import column, differences
from optimize.advise.recommend import Training, Wishes, recommend
from optimize.advise.report import LINES, lines, page
from optimize.advise.run import Result, as_plain, costs_of

SIZES = {"base": 150_000_000, "tuned": 150_000_000, "index": 2_000_000}


def result() -> Result:
    costs = costs_of(SIZES, 60.0, 660.0, 600.0, 5.0, 1.5)
    rows = {
        name: [Row(str(n), True, "x", 0.2 + 0.2 * place, 0.0, False, place % 2 == 1, 0.4, 2**29) for n in range(30)]
        for place, name in enumerate(NAMES)
    }
    columns = {name: column(found, costs[name]) for name, found in rows.items()}
    advice = recommend(columns, differences(rows), Wishes(), Training(500, 3))
    facts = {"documents": 9, "chunks": 40, "questions_trained_on": 500, "recipe": "<mine>"}
    return Result(columns, advice, facts)


def test_what_an_update_costs_is_the_index_for_documents_and_a_training_for_a_model() -> None:
    costs = costs_of(SIZES, 60.0, 660.0, 600.0, 5.0, 1.5)
    assert (costs["base"].update_sec, costs["rag"].update_sec, costs["tuned"].update_sec) == (None, 1.5, 600.0)
    assert (costs["both"].update_sec, costs["both"].build_sec) == (601.5, 665.0)
    assert costs["rag"].update_bytes == SIZES["index"] and costs["both"].ship_bytes == 152_000_000


def test_every_figure_stands_in_the_table_once_for_each_arm() -> None:
    told = list(lines(result()))
    assert len(told) > len(LINES) + 5
    assert "fine-tuned + RAG" in told[0] and "30 held-out questions" in told[0]
    for _, title, _ in LINES:
        assert sum(line.startswith(title) for line in told) == 1
    assert any("[rag.f1, both.f1]" in line for line in told)


def test_a_cited_cell_is_a_place_on_the_page() -> None:
    text = page(result())
    cited = set(re.findall(r'href="#([^"]+)"', text))
    assert cited and cited <= set(re.findall(r'id="([^"]+)"', text))
    assert "&lt;mine&gt;" in text and "<mine>" not in text
    assert "<img" in text


def test_the_result_is_plain_data() -> None:
    plain = as_plain(result())
    assert plain["columns"]["both"]["cost"]["update_sec"] == 601.5
    assert plain["advice"]["choice"] == "both"
