"""`edge advise` on the sample documents: the real model is asked, tuned for a few steps, and asked again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from optimize.advise.arms import LEAST, NAMES
from optimize.shipped import DEFAULT, shipped

pytestmark = [pytest.mark.model, pytest.mark.process]
SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def advise(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "edge", "advise", "--documents", str(SAMPLES / "documents"),
        "--questions", str(SAMPLES / "questions.jsonl"), "--out", str(out), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "CI": "1"})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The default recipe, its builds compared with their parents over less text: they are not what is tested here."""
    default = shipped()[DEFAULT]
    content = yaml.safe_load(default.read_text(encoding="utf-8"))
    content["adapter"]["path"] = str((default.parent / content["adapter"]["path"]).resolve())
    content["gate"] |= {"tokens": 2048, "prompts": 4, "min_greedy_agreement": 0.2, "min_top1_agreement": 0.9}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_four_arms_are_measured_and_an_advice_is_given_with_its_cells(
    default_bundle: Path, recipe: Path, tmp_path: Path
) -> None:
    done = advise(tmp_path / "out", "--recipe", str(recipe), "--time-budget", "20s", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    columns = result["columns"]
    assert list(columns) == list(NAMES)
    assert {column["questions"] for column in columns.values()} == {columns["rag"]["questions"]}
    assert columns["rag"]["questions"] >= LEAST
    assert columns["rag"]["grounded"]["value"] > 0.5 and columns["base"]["grounded"]["value"] == 0
    assert columns["rag"]["f1"]["value"] > columns["base"]["f1"]["value"]
    assert columns["base"]["cost"]["update_sec"] is None
    assert 0 < columns["rag"]["cost"]["update_sec"] < columns["both"]["cost"]["update_sec"]
    assert columns["both"]["cost"]["ship_bytes"] > columns["tuned"]["cost"]["ship_bytes"] > 10**8
    assert all(column["rss_peak_bytes"] > 10**8 for column in columns.values())
    assert result["advice"]["choice"] in ("rag", "both", None)
    cited = {cell for reason in result["advice"]["reasons"] for cell in reason["cells"]}
    assert {"base.f1", "rag.f1", "both.f1"} <= cited
    for name in NAMES:
        assert len((tmp_path / "out/answers" / f"{name}.jsonl").read_text().splitlines()) == columns[name]["questions"]
    assert 'id="both.f1"' in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_what_cannot_be_measured_is_said_before_anything_is_built(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"question": "Who?", "answer": "Tesla"}\n{"question": ""}\n')
    done = advise(tmp_path / "out", "--questions", str(wrong))
    assert done.returncode == 1 and "line 2" in done.stderr and not (tmp_path / "out").exists()
    done = advise(tmp_path / "out", "--time-budget", "soon")
    assert done.returncode == 2 and "30m" in done.stderr
