"""The command with the real tools on a random model of 100,000 weights: measured once, and never again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from edge.config import to_yaml
from edge.errors import ConfigError, UsageError
from optimize import child, trial
from optimize.build import Build
from optimize.cli import optimize
from optimize.recipe import BaseRecipe, GateRecipe, ModelRecipe, load_recipe
from optimize.sources import FolderSource, Source
from tests.optimize.untuned import untuned

TOO_LONG = "too long"
SEARCH = {
    "candidates": {
        "int4": {"precision": "int4"},
        TOO_LONG: {"precision": "int8", "context_tokens": 4096},
    },
    "min_questions": 4,
    "gate_tokens": 1200,
    "speed": {"rounds": 2, "prompt_tokens": 32, "new_tokens": 8},
}


def questions(path: Path, count: int = 8) -> Path:
    lines = [
        {
            "question": f"How tall is tower number {n}?",
            "context": f"Tower number {n} was built in {1900 + n}. It is {40 + n} metres tall.",
            "answer": f"{40 + n} metres",
            "document": f"towers-{n % 4}",
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def place(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe, a search and questions; a cache of its own that has the embedder already."""
    folder = tmp_path_factory.mktemp("search")
    embedder = Build(load_recipe(), lambda stage, state: None).embedder().path
    shutil.copytree(embedder, folder / "cache" / "stages" / embedder.name)
    recipe = replace(
        untuned(),
        name="tiny",
        base=BaseRecipe("test/tiny", "Apache-2.0", Source(folder=FolderSource(tiny_llama))),
        model=ModelRecipe("int8", context_tokens=512, logits_rows=8),
        gate=GateRecipe(0.05, 1.05, 0.8, 0.1, tokens=600, window_tokens=128, prompts=2),
    )
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    questions(folder / "qa.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(folder / "cache"))
        patch.setenv("EDGE_HOME", str(folder / "home"))
        yield folder


def called(place: Path, *more: str) -> Result:
    arguments = ["search", str(place / "recipe.yaml"), "--questions", str(place / "qa.jsonl")]
    arguments += ["--search", str(place / "search.yaml"), *more]
    return CliRunner().invoke(optimize, arguments)


@pytest.mark.model
@pytest.mark.process
def test_a_search_measures_picks_confirms_and_is_not_done_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = called(place, "--json", "--out", str(place / "found"))
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    fp32, int4, failed = found["rows"]
    assert (fp32["name"], int4["name"], failed["name"]) == ("fp32", "int4", TOO_LONG)
    assert "trained for 512 at most" in failed["failed"] and failed["figures"] is None
    assert fp32["figures"]["gate"]["kl_nats"] == pytest.approx(0, abs=1e-5), "fp32 is its parent"
    assert int4["figures"]["gate"]["kl_nats"] > 0.01 and int4["figures"]["gate"]["tokens"] >= 1200
    assert int4["figures"]["bytes"] < fp32["figures"]["bytes"] / 2
    assert int4["speed"]["decode_tok_per_sec"] > 0 and int4["figures"]["private_bytes"] >= 0
    assert int4["summary"]["questions"] == found["questions"]["validation"]["questions"] >= 1
    documents = {side: found["questions"][side]["documents"] for side in ("validation", "test")}
    assert not set(documents["validation"]) & set(documents["test"])
    assert sorted(documents["validation"] + documents["test"]) == [f"towers-{n}" for n in range(4)]
    assert found["pick"]["name"] == "int4" and found["confirmation"]["state"] == "confirmed"
    assert load_recipe(str(place / "found" / "recipe.yaml")).model.precision == "int4"

    def measured(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(child, "run", measured)
    monkeypatch.setattr(trial, "ask", measured)
    again = called(place, "--json", "--out", str(place / "found"))
    assert again.exit_code == 0, (again.output, again.exception)
    assert json.loads(again.stdout) == found

    (place / "strict.yaml").write_text(yaml.safe_dump(SEARCH | {"min_questions": 500}))
    strict = called(place, "--search", str(place / "strict.yaml"), "--out", str(place / "found"))
    assert strict.exit_code == 4, (strict.output, strict.exception)
    assert "pick: none: inconclusive: 4 questions" in strict.stdout and "judged int4 before" in strict.stdout
    assert not (place / "found" / "recipe.yaml").exists()
    assert not list((place / "cache" / "stages").glob("*.partial"))


@pytest.mark.model
@pytest.mark.process
def test_interrupted_it_keeps_what_is_finished(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked about other questions, the second build is interrupted: of the first nothing is done again."""
    real, asked = trial.ask, []

    def ask(box: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(box.bundle.manifest.model.precision)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(box, *arguments, **options)

    monkeypatch.setattr(trial, "ask", ask)
    stopped = called(place, "--limit", "1")
    assert "the same command goes on" in stopped.output and stopped.exit_code != 0
    assert not list((place / "cache" / "stages").glob("*.partial"))
    called(place, "--limit", "1")
    assert asked == ["fp32", "int4", "int4"]


@pytest.mark.model
def test_mistakes_are_told_before_anything_is_built(place: Path, tmp_path: Path) -> None:
    before = sorted(os.listdir(place / "cache" / "stages"))  # noqa: PTH208
    unknown = called(place, "--only", "int5")
    assert isinstance(unknown.exception, UsageError) and "there are int4" in str(unknown.exception)
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(SEARCH | {"speed": {"prompt_tokens": 600}}))
    long = called(place, "--search", str(tmp_path / "long.yaml"))
    assert isinstance(long.exception, UsageError) and "context_tokens are 512" in str(long.exception)
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(SEARCH | {"candidates": {"odd": {"precision": "int5"}}}))
    odd = called(place, "--search", str(tmp_path / "odd.yaml"))
    assert isinstance(odd.exception, ConfigError) and "candidate 'odd'" in str(odd.exception)
    (tmp_path / "file").write_text("")
    file = called(place, "--out", str(tmp_path / "file"))
    assert isinstance(file.exception, UsageError) and "name a folder" in str(file.exception)
    assert sorted(os.listdir(place / "cache" / "stages")) == before  # noqa: PTH208
