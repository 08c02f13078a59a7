"""The straight path with measuring injected: rows, failures, the pick, its confirmation, and the files written."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from edge.errors import BuildError, EngineError
from optimize.dataset.examples import Example, Shown
from optimize.evaluate import GateResult
from optimize.recipe import ModelRecipe, load_recipe
from optimize.search import report
from optimize.search.candidates import SearchRecipe
from optimize.search.questions import Questions, divide
from optimize.search.run import Result, search
from optimize.search.workbench import Figures, Speed, medians
from optimize.trial import Asked
from tests.optimize.untuned import untuned

CANDIDATES = {
    "int8": {"precision": "int8"},
    "small": {"precision": "int4"},
    "middle": {"precision": "int4", "block_size": 16},
}
SETTINGS = SearchRecipe(CANDIDATES, min_questions=20)
BYTES = {("fp32", 32): 400, ("int8", 32): 100, ("int4", 32): 50, ("int4", 16): 60}
GATE = GateResult(
    tokens=10_240, parent_perplexity=20.0, perplexity=21.0, perplexity_ratio=1.05, kl_nats=0.02, top1_agreement=0.9,
    greedy_agreement=0.5, greedy_prompts=32, parent_accuracy=0.4, accuracy=0.39,
)  # fmt: skip


def questions(count: int = 40) -> Questions:
    examples = [
        Example(str(n), f"d{n % 4}", f"Question {n}?", (Shown("", f"Passage {n}."),), ("yes",) if n % 10 else ())
        for n in range(count)
    ]
    return divide(examples, examples, None, share=0.5, seed=0)


class Made:
    """Builds whose F1 on every answerable question is known; `wrong` is the share of questions answered wrongly."""

    def __init__(
        self, f1: Mapping[tuple[str, int], float], *, fails: Sequence[tuple[str, int]] = (),
        on_test: Mapping[tuple[str, int], float] | None = None, test: Sequence[Example] = (),
    ) -> None:  # fmt: skip
        self.f1, self.fails, self.on_test, self.test = f1, fails, on_test or {}, list(test)
        self.asked: list[tuple[tuple[str, int], int]] = []

    def figures(self, model: ModelRecipe) -> Figures:
        key = (model.precision, model.block_size)
        if key in self.fails:
            raise BuildError("Olive failed. Its log is x.log; the last lines:\n  one\n  a shape does not fit")
        return Figures(BYTES[key], 2 * BYTES[key], GATE)

    def ask(self, model: ModelRecipe, examples: Sequence[Example]) -> list[Asked]:
        key = (model.precision, model.block_size)
        is_test = list(examples) == self.test
        self.asked.append((key, len(examples)))
        f1 = self.on_test.get(key, self.f1[key]) if is_test else self.f1[key]
        return [Asked(e.id, bool(e.answers), "", 0, f1, False, False, False, 0.1, 0.1, 0.5) for e in examples]

    def speeds(self, models: Mapping[str, ModelRecipe]) -> dict[str, Speed]:
        return {name: Speed(1000.0, 100.0, 10**8) for name in models}


def searched(made: Made, asked: Questions, settings: SearchRecipe = SETTINGS, *, allow_few: bool = False) -> Result:
    return search("r", ModelRecipe("int8", logits_rows=8), settings, asked, made, allow_few=allow_few)


GOOD = {("fp32", 32): 0.6, ("int8", 32): 0.6, ("int4", 32): 0.5, ("int4", 16): 0.595}


def test_the_smallest_that_keeps_f1_is_picked_and_confirmed() -> None:
    asked = questions(120)
    result = searched(Made(GOOD, test=asked.test), asked)
    assert [row.name for row in result.rows] == ["fp32", "int8", "small", "middle"]
    assert result.pick.name == "middle" and result.picked is not None
    assert result.picked.figures == Figures(60, 120, GATE)
    states = {row.name: row.verdict.state for row in result.rows if row.verdict}
    assert states == {"int8": "keeps", "small": "loses", "middle": "keeps"}
    assert result.front == ("small", "middle", "int8")
    assert result.confirmation is not None and result.confirmation.state == "confirmed"
    assert result.confirmation.verdict.comparison.difference == pytest.approx(-0.005)
    assert all(row.speed for row in result.rows)


def test_questions_without_an_answer_do_not_count_for_f1() -> None:
    asked = questions(120)
    result = searched(Made(GOOD, test=asked.test), asked)
    answerable = sum(bool(one.answers) for one in asked.validation)
    verdict = next(row.verdict for row in result.rows if row.verdict)
    assert verdict.comparison.questions == answerable < len(asked.validation)


def test_the_test_documents_are_asked_once_and_only_of_the_pick_and_fp32() -> None:
    asked = questions(120)
    made = Made(GOOD, test=asked.test)
    searched(made, dataclasses.replace(asked, test=asked.test[:-1]))
    tested = [key for key, count in made.asked if count == len(asked.test) - 1 != len(asked.validation)]
    assert sorted(tested) == [("fp32", 32), ("int4", 16)]


@pytest.mark.parametrize(("on_test", "state"), [(0.4, "refuted"), (0.6, "confirmed")])
def test_a_pick_that_does_not_hold_on_other_documents_is_said_to(on_test: float, state: str) -> None:
    asked = questions(120)
    result = searched(Made(GOOD, on_test={("int4", 16): on_test}, test=asked.test), asked)
    assert result.confirmation is not None and result.confirmation.state == state
    assert any(state in line for line in report.lines(result))


def test_a_pick_whose_test_answers_differ_both_ways_is_neither_confirmed_nor_refuted() -> None:
    class Noisy(Made):
        def ask(self, model: ModelRecipe, examples: Sequence[Example]) -> list[Asked]:
            answers = super().ask(model, examples)
            if list(examples) != self.test:
                return answers
            is_fp32 = model.precision == "fp32"
            return [dataclasses.replace(one, f1=float(n % 2 == is_fp32)) for n, one in enumerate(answers)]

    asked = questions(120)
    result = searched(Noisy(GOOD, test=asked.test), asked)
    assert result.pick.name == "middle" and result.confirmation is not None
    assert result.confirmation.state == "inconclusive"
    assert "that takes about" in report.lines(result)[-1]


def test_a_candidate_that_fails_is_a_row_with_the_reason() -> None:
    asked = questions(120)
    result = searched(Made(GOOD, fails=[("int4", 16)], test=asked.test), asked)
    row = next(row for row in result.rows if row.name == "middle")
    assert row.figures is None and row.failed is not None and row.failed.startswith("Olive failed")
    assert result.pick.name == "int8" and "middle" not in result.front
    assert "middle: Olive failed. Its log is x.log: a shape does not fit" in report.lines(result)


def test_no_reference_no_search() -> None:
    with pytest.raises(BuildError):
        searched(Made(GOOD, fails=[("fp32", 32)]), questions())


def test_an_engine_that_fails_while_asked_is_a_row_too() -> None:
    class Broken(Made):
        def ask(self, model: ModelRecipe, examples: Sequence[Example]) -> list[Asked]:
            if model.precision == "int8":
                raise EngineError("out of memory")
            return super().ask(model, examples)

    asked = questions(120)
    result = searched(Broken(GOOD, test=asked.test), asked)
    assert next(row.failed for row in result.rows if row.name == "int8") == "out of memory"


def test_all_candidates_failing_picks_none() -> None:
    result = searched(Made(GOOD, fails=[("int8", 32), ("int4", 32), ("int4", 16)]), questions())
    assert result.pick.name is None and result.pick.why == "no candidate could be built"
    assert result.front == () and result.confirmation is None


def test_few_questions_pick_none_unless_allowed() -> None:
    asked = questions(40)
    settings = dataclasses.replace(SETTINGS, min_questions=500)
    result = searched(Made(GOOD, test=asked.test), asked, settings)
    assert result.pick.name is None and result.confirmation is None
    assert "too few" in result.pick.why and "500" in result.pick.why
    allowed = searched(Made(GOOD, test=asked.test), asked, settings, allow_few=True)
    assert allowed.pick.name == "middle"
    assert allowed.confirmation is not None and allowed.confirmation.state == "confirmed"


def test_files_hold_the_result_the_drawing_and_a_recipe_that_loads(tmp_path: Path) -> None:
    asked = questions(120)
    result = searched(Made(GOOD, test=asked.test), asked)
    recipe = untuned()
    written = report.write(result, recipe, tmp_path / "found")
    assert {path.name for path in written} == {"result.json", "recipe.yaml", "front.svg"}
    content = json.loads((tmp_path / "found" / "result.json").read_text())
    assert content["pick"]["name"] == "middle" and content["confirmation"]["state"] == "confirmed"
    assert content["rows"][2]["figures"]["bytes"] == 50
    assert set(content["questions"]) == {"validation", "test", "searched_sha256"}
    loaded = load_recipe(str(tmp_path / "found" / "recipe.yaml"))
    assert loaded.model == result.picked.model if result.picked else False
    assert loaded.name == f"{recipe.name}-middle"
    assert loaded.base == recipe.base and loaded.embedder == recipe.embedder
    assert loaded.gate.max_kl_nats >= GATE.kl_nats and loaded.gate.min_top1_agreement <= GATE.top1_agreement
    assert loaded.gate.max_perplexity_ratio >= GATE.perplexity_ratio
    svg = (tmp_path / "found" / "front.svg").read_text()
    assert svg.startswith("<?xml") and svg.count("<g ") > 10
    again = report.drawn(result)
    assert again == svg.encode(), "the same result, the same file"


def test_a_search_that_picks_nothing_leaves_no_recipe_of_an_earlier_one(tmp_path: Path) -> None:
    asked = questions(120)
    recipe = untuned()
    result = searched(Made(GOOD, test=asked.test), asked)
    report.write(result, recipe, tmp_path)
    sha256 = result.questions["test"]["sha256"]
    assert report.earlier_picks(tmp_path, sha256) == ["middle"]
    assert report.earlier_picks(tmp_path, "other") == [] and report.earlier_picks(None, sha256) == []
    none = searched(Made({**GOOD, ("int8", 32): 0.1, ("int4", 16): 0.1}), asked)
    none = dataclasses.replace(none, judged_before=("middle",))
    report.write(none, recipe, tmp_path)
    assert not (tmp_path / "recipe.yaml").exists()
    assert report.earlier_picks(tmp_path, sha256) == ["middle"], "what was judged stays known"
    assert any("judged middle before" in line for line in report.lines(none))
    with pytest.raises(ValueError, match="nothing was picked"):
        report.picked_recipe(none, recipe)


def test_damaged_results_are_no_earlier_picks(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"questions": 1}'):
        (tmp_path / "result.json").write_text(text)
        assert report.earlier_picks(tmp_path, "x") == []


def test_the_table_shows_every_build_in_80_columns() -> None:
    asked = questions(120)
    result = searched(Made(GOOD, fails=[("int4", 32)], test=asked.test), asked)
    long = "k_quant block 16, int8 head and layers"
    rows = tuple(dataclasses.replace(row, name=long) if row.name == "int8" else row for row in result.rows)
    console = Console(width=80, file=io.StringIO())
    console.print(report.table(dataclasses.replace(result, rows=rows)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "▶" in text and "keeps" in text and "-0.005 … -0.005" in text
    assert all(word in text for word in long.split())
    assert "small" not in text, "what failed stands below the table"
    lines = text.splitlines()
    assert next(i for i, line in enumerate(lines) if "middle" in line) < next(
        i for i, line in enumerate(lines) if "fp32" in line and "95%" not in line
    ), "smallest first"


def test_speeds_are_medians() -> None:
    runs = [
        {"prefill_tok_per_sec": p, "decode_tok_per_sec": d, "rss_peak_bytes": r}
        for p, d, r in ((1.0, 9.0, 5), (3.0, 1.0, 7), (2.0, 5.0, 6))
    ]
    assert medians(runs) == Speed(2.0, 5.0, 7)
