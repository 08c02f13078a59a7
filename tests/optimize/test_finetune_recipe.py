"""The section `finetune` of a recipe: what does not go together is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import parse
from edge.errors import ConfigError
from optimize.finetune_recipe import AdapterSource, FineTuneRecipe
from optimize.recipe import load_recipe, shipped

DATA = "data: {train: [a.jsonl]}\n"


def test_defaults_are_whole() -> None:
    recipe = parse(FineTuneRecipe, DATA, "r")
    assert (recipe.method, recipe.trainer, recipe.rank) == ("lora", "completion", 16)
    assert recipe.data.train == (Path("a.jsonl"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {train: []}", "train must name at least one file"),
        ("data: {train: [a], held_out: [b], split: c}", "either held_out files or a split"),
        (DATA + "rank: 0", "rank must be more than 0"),
        (DATA + "learning_rate: .nan", "learning_rate must be more than 0"),
        (DATA + "dropout: 1.0", "dropout must be from 0 to less than 1"),
        (DATA + "epochs: 0", "epochs must be more than 0"),
        (DATA + "epochs: .inf", "epochs must be more than 0"),
        (DATA + "max_tokens: 8", "max_tokens and batch_tokens must be 16 or more"),
        (DATA + "targets: []", "at least one kind of layer"),
        (DATA + "patience: 2", "patience needs data.held_out"),
        (DATA + "method: qlora", "method: qlora needs trainer: olive"),
        (DATA + "trainer: olive\nlabel_smoothing: 0.1", "trainer: olive knows no label_smoothing"),
        (DATA + "trainer: olive\nloss_weight: completion", "olive knows no loss_weight"),
        (DATA + "lora_r: 8", r"unknown key 'lora_r'; known here: data, method"),
        (DATA + "steps: -1", "steps must be 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(FineTuneRecipe, text, "recipe.yaml")


def test_adapter_is_pinned() -> None:
    with pytest.raises(ConfigError, match="64 lower-case hex digits"):
        parse(AdapterSource, "path: a\nsha256: abc", "r")


def test_paths_start_at_the_recipe_and_only_one_adapter_is_merged(tmp_path: Path) -> None:
    text = shipped()["cpu-int4"].read_text(encoding="utf-8")
    tuned = text.replace("finetune: null", "finetune: {data: {train: [a.jsonl, b.json], held_out: [c.jsonl]}}")
    path = tmp_path / "mine.yaml"
    path.write_text(tuned)
    recipe = load_recipe(str(path))
    assert recipe.finetune is not None
    assert recipe.finetune.data.train == (tmp_path / "a.jsonl", tmp_path / "b.json")
    assert recipe.finetune.data.held_out == (tmp_path / "c.jsonl",)
    path.write_text(tuned.replace("adapter: null", f"adapter: {{path: x, sha256: {'a' * 64}}}"))
    both = load_recipe(str(path))
    assert both.finetune and both.adapter and both.adapter.path == tmp_path / "x"  # trained on top of the ready one
