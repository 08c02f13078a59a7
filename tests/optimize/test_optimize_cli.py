"""`edge optimize` as a user calls it: found by its entry point, exit codes, and one JSON object."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.errors import BuildError, ConfigError
from optimize import cli, pipeline
from optimize.build import Report
from optimize.pipeline import BuildResult, StageReport
from optimize.recipe import DEFAULT, Recipe, load_recipe

GATE = {"tokens": 10, "perplexity_ratio": 1.0, "kl_nats": 0.1, "top1_agreement": 0.9, "greedy_agreement": 0.5}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Path]]:
    """Replaces the pipeline by one that remembers what it was asked for."""
    seen: list[tuple[Recipe, Path]] = []

    def run(recipe: Recipe, out: Path, report: Report, watch: object) -> BuildResult:
        seen.append((recipe, out))
        report("model", "running")
        report("model", "built")
        stages = (StageReport("model", "k", False, 1.5, 1.5),)
        return BuildResult(out, "d" * 64, {"model": GATE, "embedder": {}}, stages)

    monkeypatch.setattr(pipeline, "run", run)
    return seen


def test_entry_point_leads_here() -> None:
    found = importlib.metadata.entry_points(group="edge.commands", name="optimize")
    assert [point.load() for point in found] == [cli.optimize]


def test_json_is_the_only_thing_on_stdout(calls: list[tuple[Recipe, Path]], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.optimize, ["run", "cpu-int4", "--out", str(tmp_path / "b"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "b"),
        "digest": "d" * 64,
        "gate": {"model": GATE, "embedder": {}},
        "stages": [{"name": "model", "key": "k", "cached": False, "seconds": 1.5, "built_sec": 1.5}],
    }
    assert "quantize with Olive: built" in done.stderr
    assert calls == [(load_recipe("cpu-int4"), tmp_path / "b")]


def test_default_recipe_and_place(
    calls: list[tuple[Recipe, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_HOME", str(tmp_path))
    done = CliRunner().invoke(cli.optimize, ["run"])
    assert done.exit_code == 0, done.output
    assert calls == [(load_recipe(DEFAULT), tmp_path / "bundle")]
    assert str(tmp_path / "bundle") in done.stdout


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "olive" else real(name))
    with pytest.raises(BuildError, match=r"not installed: olive\. Run pip install 'edge-slm\[optimize\]'"):
        CliRunner().invoke(cli.optimize, ["run"], catch_exceptions=False)


def test_unknown_recipe_is_an_error(calls: list[tuple[Recipe, Path]]) -> None:
    with pytest.raises(ConfigError, match="no recipe 'nonsense'"):
        CliRunner().invoke(cli.optimize, ["run", "nonsense"], catch_exceptions=False)
    assert calls == []


def test_recipes_lists_them_and_marks_the_default() -> None:
    done = CliRunner().invoke(cli.optimize, ["recipes"])
    assert f"{DEFAULT} (default)\t" in done.stdout
    assert "cpu-int4" in done.stdout
