"""The learning curve: a power law is found again, verdicts follow the figures, and the command runs on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edge.config import to_plain
from edge.engine.base import Message
from edge.errors import ConfigError, UsageError
from optimize.build import Build
from optimize.cli import optimize
from optimize.curve import findings, fit, report, run
from optimize.curve.fit import Interval, Judged, Point
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.recipe import BaseRecipe
from optimize.sources import FolderSource, Source
from tests.optimize.untuned import untuned

SIZES = [40, 80, 160, 320]


def samples(documents: int, each: int = 3) -> list[Sample]:
    return [
        Sample(f"{d}-{q}", f"d{d}", (Message("user", f"q{q}"),), "a") for d in range(documents) for q in range(each)
    ]


def judged(loss: float, count: int = 60, noise: float = 0.0, seed: int = 0) -> Judged:
    """Examples of 4 tokens each with `loss` nats a token on average; the same seed has the same noise."""
    drawn = np.random.default_rng(seed).normal(size=count) * noise
    return Judged((loss + drawn - drawn.mean()) * 4, np.full(count, 4), np.arange(count) % 4 == 0)


def points(sizes: list[int] = SIZES) -> list[Point]:
    nothing = Interval(0, 0, 0)
    return [Point(n / sizes[-1], n // 4, n, 100, 60, nothing, 0.0) for n in sizes]


def measured(losses: list[float], base: float = 3.0, noise: float = 0.05, own: float = 0.0) -> fit.Curve:
    """:param own: noise of each model alone, beside what all have on the same example."""
    sizes = [SIZES[-1] >> (len(losses) - 1 - place) for place in range(len(losses))]
    models = [judged(loss, noise=noise) for loss in losses]
    if own:
        apart = [judged(0.0, noise=own, seed=7 + place).nats for place in range(len(losses))]
        models = [replace(one, nats=one.nats + extra) for one, extra in zip(models, apart, strict=True)]
    made = fit.measure(judged(base, noise=noise), models, points(sizes), samples(20), rounds=400)
    return replace(made, findings=tuple(findings.judge(made)))


@given(a=st.floats(0.5, 20), b=st.floats(-0.2, 0.8), first=st.integers(5, 500), count=st.integers(2, 4))
def test_a_power_law_without_floor_is_found_again(a: float, b: float, first: int, count: int) -> None:
    sizes = [first * 2**place for place in range(count)]
    law = fit.fit(sizes, [a * n**-b for n in sizes])
    assert law.c == 0
    assert law.b == pytest.approx(b, abs=1e-9)
    assert law.a == pytest.approx(a, rel=1e-6)


@given(a=st.floats(1, 20), b=st.floats(0.3, 0.8), c=st.floats(0.1, 2), first=st.integers(5, 100))
def test_with_five_sizes_a_floor_is_fitted(a: float, b: float, c: float, first: int) -> None:
    """Its value is hard to tell from so few sizes; what it is for, the next doubling, must be right."""
    sizes = [first * 2**place for place in range(6)]
    true = fit.Law(a, b, c)
    law = fit.fit(sizes, [true.at(n) for n in sizes])
    bare = fit._laws(np.log(sizes), np.array([[true.at(n) for n in sizes]]), np.zeros(1))[0]
    doubled = 2 * sizes[-1]
    assert law.at(doubled) == pytest.approx(true.at(doubled), rel=0.01)
    wrong = abs(float(np.exp(bare[0])) * doubled ** -float(bare[1]) - true.at(doubled))
    assert abs(law.at(doubled) - true.at(doubled)) <= wrong + 1e-9


@given(losses=st.lists(st.floats(0.01, 10), min_size=3, max_size=7), factor=st.floats(0.1, 10))
def test_the_slope_does_not_depend_on_the_unit(losses: list[float], factor: float) -> None:
    sizes = [10 * 2**place for place in range(len(losses))]
    law, scaled = fit.fit(sizes, losses), fit.fit(sizes, [loss * factor for loss in losses])
    assert all(np.isfinite([law.a, law.b, law.c]))
    assert 0 <= law.c < min(losses)
    assert scaled.b == pytest.approx(law.b, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("sizes", "losses"), [([4], [1.0]), ([4, 4], [1.0, 2.0]), ([4, 8], [1.0, 0.0]), ([0, 8], [1.0, 1.0]), ([1, 2], [1])]
)
def test_what_has_no_law_is_refused(sizes: list[float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="two different sizes"):
        fit.fit(sizes, losses)


@given(documents=st.integers(8, 60), count=st.integers(3, 4), seed=st.integers(0, 5))
def test_subsets_are_nested_and_of_whole_documents(documents: int, count: int, seed: int) -> None:
    given_ = samples(documents)
    parts = fit.shares(count)
    made = fit.subsets(given_, parts, seed)
    assert parts[-1] == 1 and all(later == 2 * one for one, later in pairwise(parts))
    assert made[-1] == given_
    for part, subset, larger in zip(parts, made, [*made[1:], given_], strict=True):
        names = {sample.document for sample in subset}
        assert set(subset) <= set(larger)
        assert subset == [sample for sample in given_ if sample.document in names], "whole documents, in order"
        assert abs(len(names) - documents * part) <= 0.5
        assert subset
    assert fit.subsets(list(reversed(given_)), parts, seed)[0] == list(reversed(made[0])), "by name, not by place"


def test_too_few_documents_are_refused() -> None:
    with pytest.raises(UsageError, match=r"of 7 documents, and a curve of 4 sizes needs 8"):
        fit.subsets(samples(7), fit.shares(4), 0)
    assert [Fraction(1, 4), Fraction(1, 2), Fraction(1)] == fit.shares(3)


def test_figures_are_those_of_the_losses() -> None:
    made = measured([2.0, 1.8, 1.62, 1.458])
    assert made.slope.value == pytest.approx(-np.log2(0.9))
    assert made.slope.low < made.slope.value < made.slope.high
    assert made.doubling_gain_nats.value == pytest.approx(0.1458)
    assert made.last_gain_nats.value == pytest.approx(1.62 - 1.458)
    assert made.training_gain_nats.value == pytest.approx(3 - 1.458)
    assert [point.loss_nats.value for point in made.points] == pytest.approx([2.0, 1.8, 1.62, 1.458])
    assert made.base.loss_nats.value == pytest.approx(3.0)
    assert {point.exact for point in made.points} == {0.25}
    assert (made.resampled, made.held_out_documents, made.held_out_examples) == ("documents", 20, 60)


def test_shared_noise_cancels_and_own_noise_does_not() -> None:
    losses = [2.0, 1.8, 1.62, 1.458]
    shared, own = measured(losses, noise=0.5), measured(losses, noise=0.0, own=0.5)
    assert shared.points[0].loss_nats.high - shared.points[0].loss_nats.low > 0.1, "each loss alone is unsure"
    assert shared.last_gain_nats.high - shared.last_gain_nats.low < 0.01
    assert own.last_gain_nats.high - own.last_gain_nats.low > 0.1


def test_documents_are_resampled_whole() -> None:
    """Questions on one document go wrong together: taken one by one they would make the interval too narrow."""
    asked = samples(20)
    off = np.repeat(np.random.default_rng(1).normal(size=20), 3)
    models = [Judged((loss + off * place) * 4, np.full(60, 4), off > 0) for place, loss in enumerate((8.0, 7.0))]
    alone = [replace(sample, document=sample.id) for sample in asked]
    by_document, by_example = (
        fit.measure(models[0], models, points([10, 20]), rows, rounds=400) for rows in (asked, alone)
    )
    width = [made.last_gain_nats.high - made.last_gain_nats.low for made in (by_document, by_example)]
    assert width[0] > 1.4 * width[1]


@pytest.mark.parametrize(
    ("losses", "base", "own", "expected"),
    [
        ([2.0, 1.8, 1.62, 1.458], 3.0, 0.02, ["warning: more data would help"]),
        ([1.5, 1.49, 1.485, 1.481], 3.0, 0.001, ["note: more data of this kind would hardly help"]),
        ([2.0, 1.7, 1.5, 1.5], 3.0, 0.05, ["warning: the second half of the documents made no difference"]),
        ([2.0, 1.8, 1.6, 1.7], 3.0, 0.02, ["warning: the second half of the documents made no difference"]),
        (
            [3.0, 3.001, 2.999, 3.0], 3.0, 0.1,
            ["warning: training on all 320 examples did not lower", "warning: the second half"],
        ),
    ],
)  # fmt: skip
def test_verdicts(losses: list[float], base: float, own: float, expected: list[str]) -> None:
    said = [f"{finding.level}: {finding.text}" for finding in measured(losses, base, own=own).findings]
    assert len(said) == len(expected)
    assert all(text.startswith(start) for text, start in zip(said, expected, strict=True)), said
    assert any("examples^-" in text for text in said), "the measured slope"


def test_few_held_out_documents_are_told() -> None:
    models = [judged(loss, 12, 0.05) for loss in (2.0, 1.8)]
    made = fit.measure(judged(3.0, 12), models, points([10, 20]), samples(4), rounds=100)
    assert made.resampled == "examples"
    assert "only 4 documents are held out" in findings.judge(made)[-1].text
    with pytest.raises(ValueError, match="same held-out examples"):
        fit.measure(judged(3.0, 12), models, points([10, 20]), samples(5), rounds=10)


def test_a_recipe_with_an_early_stop_is_kept_to() -> None:
    plain = FineTuneRecipe(DataRecipe((Path("a"),), (Path("b"),)))
    own = replace(plain, patience=4)
    assert fit.settled(own, 50, True) is own
    assert fit.settled(own, 50, False) == replace(own, steps=50)
    assert fit.settled(plain, 55, True) == replace(plain, steps=55, eval_every_steps=6, patience=3)
    assert fit.settled(plain, 1, False).eval_every_steps == 1


def test_picture_is_the_same_each_time() -> None:
    pytest.importorskip("matplotlib")
    made = measured([2.0, 1.8, 1.62, 1.458, 1.4])
    first = report.drawn(made)
    assert first == report.drawn(made)
    assert b"<svg" in first


# the whole command


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FineTuneRecipe:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def file(name: str, places: range, long: bool = False) -> Path:
        rows: list[dict[str, Any]] = [
            {"id": str(i), "document": f"{name}{i // 2}", "question": f"What is {i}?",
             "context": "word " * (400 if long and i == places[0] else 1) + f"Passage {i // 2}.",
             "answer": f"Passage {i // 2}"}
            for i in places
        ]  # fmt: skip
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    files = DataRecipe((file("train", range(8)),), (file("held", range(8, 14), long=True),))
    return FineTuneRecipe(files, dtype="fp32", rank=2, steps=4, batch_tokens=256, max_tokens=256, learning_rate=5e-3)


def built(tiny_llama: Path, recipe: FineTuneRecipe | None) -> Build:
    base = BaseRecipe("test/tiny", "Apache-2.0", Source(folder=FolderSource(tiny_llama)))
    return Build(replace(untuned(), base=base, finetune=recipe), lambda stage, state: None)


@pytest.mark.process
def test_command_interrupted_goes_on_and_measures(tiny_llama: Path, recipe: FineTuneRecipe, tmp_path: Path) -> None:
    import yaml

    build = built(tiny_llama, recipe)
    heard: list[str] = []

    def interrupted(text: str) -> None:
        heard.append(text)
        if text.startswith("1/4 of the documents: held-out loss"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(build, 3, on_part=interrupted)
    assert [stage.name for stage in build.stages] == ["parent", "held-out-loss", "adapter", "held-out-loss"]

    content = to_plain(build.recipe)
    content["base"]["source"] = {"folder": {"path": str(tiny_llama)}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    command = ["curve", str(tmp_path / "r.yaml"), "--points", "3", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(optimize, command)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "out" / report.RESULT).read_text())
    assert [(point["documents"], point["examples"]) for point in result["points"]] == [(1, 2), (2, 4), (4, 8)]
    assert all(0 < point["best_step"] <= point["steps"] <= 4 for point in result["points"])
    assert result["held_out_examples"] == 5, "one is longer than max_tokens"
    assert result["held_out_documents"] == 3
    assert result["findings"]
    assert done.stderr.count("train the adapter: cached") == 1
    assert done.stderr.count("train the adapter: built") == 2

    losses = [stage for stage in build.stages if stage.name == "held-out-loss"]
    assert [point["loss_nats"]["value"] for point in (result["base"], result["points"][0])] == pytest.approx(
        [_loss(stage.path) for stage in losses]
    )
    told = json.loads((build.stages[2].path / "losses.json").read_text())
    best = min(loss for _, loss in told["held_out_nats"])
    assert result["points"][0]["loss_nats"]["value"] == pytest.approx(best, abs=5e-3), "as the trainer measured it"
    assert result["base"]["loss_nats"]["value"] != pytest.approx(best, abs=5e-3)

    again = CliRunner().invoke(optimize, command[:-1])
    assert again.exit_code == 0, again.output
    assert "built" not in again.stderr
    assert "untrained" in again.stdout and "twice the data" in again.stdout


def _loss(folder: Path) -> float:
    from optimize.curve import losses

    return losses.read(folder)[0].loss


def test_what_cannot_have_a_curve_is_refused(tiny_llama: Path, recipe: FineTuneRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no section finetune"):
        run.run(built(tiny_llama, None))
    with pytest.raises(UsageError, match="trainer: olive measures no held-out loss"):
        run.run(built(tiny_llama, replace(recipe, trainer="olive")))
    with pytest.raises(UsageError, match="hold no example out"):
        run.run(built(tiny_llama, replace(recipe, data=DataRecipe(recipe.data.train))))
    with pytest.raises(UsageError, match="of 4 documents, and a curve of 4 sizes needs 8"):
        run.run(built(tiny_llama, recipe))
    assert not (tmp_path / "cache").exists(), "nothing was built before it was refused"


def test_parts_without_an_example_that_is_short_enough_are_refused(tiny_llama: Path, recipe: FineTuneRecipe) -> None:
    rows = [json.loads(line) for line in recipe.data.train[0].read_text().splitlines()]
    names = [sample.document for sample in fit.subsets(samples_of(rows), fit.shares(3), 0)[0]]
    long = [{**row, "context": "word " * 400} if row["document"] in names else row for row in rows]
    recipe.data.train[0].write_text("".join(json.dumps(row) + "\n" for row in long))
    with pytest.raises(UsageError, match=r"the parts hold 0, 2, 6 examples of at most finetune\.max_tokens: 256"):
        run.run(built(tiny_llama, recipe), 3)


def samples_of(rows: list[dict[str, Any]]) -> list[Sample]:
    return [Sample(row["id"], row["document"], (), row["answer"]) for row in rows]
