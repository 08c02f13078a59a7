"""The stage that trains, with the real process: killed, interrupted, resumed; and from a recipe to a merged model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge.engine.base import Message
from edge.errors import BuildError, ConfigError, DatasetError, UsageError
from edge.files import sha256_file
from optimize import child, dataset, finetune, lora_olive, manifest
from optimize.build import Build
from optimize.cli import optimize
from optimize.dataset.examples import Sample
from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.merge import check_fits
from optimize.recipe import BaseRecipe, Recipe
from optimize.sources import FolderSource, Source
from optimize.stages import Stage, digest_of, hash_folder
from optimize.training import checkpoint
from optimize.training.loop import Report
from tests.optimize.untuned import untuned

ROWS = [
    {"id": str(i), "document": f"d{i // 3}", "question": f"What is {i}?", "context": f"Passage {i // 3}.",
     "answer": f"Passage {i // 3}"}
    for i in range(12)
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "cache"


def written(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> FineTuneRecipe:
    files = DataRecipe((written(tmp_path, "train.jsonl", ROWS[:9]),), (written(tmp_path, "held.jsonl", ROWS[9:]),))
    return FineTuneRecipe(
        files, dtype="fp32", rank=2, dropout=0.1, steps=8, batch_tokens=256, max_tokens=256, eval_every_steps=4,
        checkpoint_every_sec=0.0,
    )  # fmt: skip


@pytest.fixture
def parent(tiny_llama: Path) -> Stage:
    files = hash_folder(tiny_llama)
    return Stage("parent", "key", tiny_llama, digest_of(files), True, 0.0, files)


def train(parent: Stage, recipe: FineTuneRecipe, watch: finetune.Watch | None = None) -> Stage:
    return finetune.finetune(parent, "test/tiny", recipe, *finetune.read_samples(recipe.data), watch)


@pytest.mark.process
def test_killed_interrupted_and_whole_runs_end_with_the_same_bytes(
    parent: Stage, recipe: FineTuneRecipe, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps: list[int] = []

    def killed(report: Report) -> None:
        steps.append(report.step)
        if report.step == 2:
            mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for pid in mine:
                if b"optimize.training.run" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(BuildError, match="Training was killed by SIGKILL"):
        train(parent, recipe, killed)
    assert list((cache / "training").glob(f"*/{checkpoint.NAME}"))
    assert not list((cache / "stages").glob("adapter-*[!k]/"))

    def interrupted(report: Report) -> None:
        steps.append(report.step)
        if report.step >= 5:
            raise KeyboardInterrupt

    with pytest.raises(BuildError, match="interrupted; the same command goes on from the checkpoint"):
        train(parent, recipe, interrupted)
    resumed = train(parent, recipe, lambda report: steps.append(report.step))
    assert steps[-1] == 8
    assert len(steps) < 12, "it went on where it was"
    assert not list((cache / "training").iterdir())

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "other"))
    whole = train(parent, recipe)
    assert not whole.cached
    assert whole.files == resumed.files, "adapter, losses and card, byte for byte"
    again = train(parent, recipe)
    assert again.cached
    check_fits(parent.path, "test/tiny", whole.path)
    card = json.loads((whole.path / finetune.CARD).read_text())
    assert card["samples"] == {"train": 9, "held_out": 3, "left_out": []}
    assert card["dtype"] == "fp32"
    assert str(tmp_path) not in "".join(
        (whole.path / name).read_text() for name in (finetune.CARD, finetune.CONFIG, "losses.json")
    )
    assert [step for step, _ in json.loads((whole.path / "losses.json").read_text())["held_out_nats"]] == [4, 8]


@pytest.mark.process
def test_breakdown_is_told_and_its_last_good_adapter_kept(parent: Stage, recipe: FineTuneRecipe, cache: Path) -> None:
    wild = replace(recipe, learning_rate=1e30, warmup_share=0.0, schedule="constant")
    with pytest.raises(BuildError, match=r"broke down at step .*Lower finetune\.learning_rate") as caught:
        train(parent, wild)
    kept = next((cache / "training").glob("*/last-good"))
    assert str(kept) in str(caught.value)
    check_fits(parent.path, "test/tiny", kept)


@pytest.mark.process
def test_trainer_ends_with_the_build(parent: Stage, recipe: FineTuneRecipe, tmp_path: Path) -> None:
    """A build that is killed must not leave a trainer that goes on writing."""
    mark = tmp_path / "pid"
    work = tmp_path / "work"
    train = finetune.read_samples(recipe.data)[0]
    job = finetune._job(parent.path, "b", replace(recipe, steps=2000), train, [], work, tmp_path / "out")
    (tmp_path / "job.json").write_text(json.dumps(job))
    program = (
        "import json, os, sys; from pathlib import Path; from optimize import finetune\n"
        "def watch(report):\n"
        "    if report.step == 3:\n"
        "        Path(sys.argv[3]).write_text(Path(f'/proc/self/task/{os.getpid()}/children').read_text())\n"
        "finetune._train(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), 'log', watch)"
    )
    root = str(Path(__file__).resolve().parents[2])
    build = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "job.json"), str(work), str(mark)],
        env={**os.environ, "PYTHONPATH": root},
    )
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(mark.read_text().split()[0])
    build.kill()
    build.wait()
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        state = (
            Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] if Path(f"/proc/{pid}").exists() else "Z"
        )
        if state == "Z":
            return
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


def test_same_document_on_both_sides_is_refused(tmp_path: Path) -> None:
    files = DataRecipe((written(tmp_path, "a.jsonl", ROWS[:5]),), (written(tmp_path, "b.jsonl", ROWS[5:]),))
    with pytest.raises(UsageError, match=r"1 documents are in both .*d1.*split by document"):
        finetune.read_samples(files)


def test_a_split_that_was_written_down_is_kept_to(tmp_path: Path) -> None:
    rows = [{"question": f"Question {n}?", "answer": f"Answer {n}.", "document": f"d{n % 4}"} for n in range(8)]
    file, split = written(tmp_path, "all.jsonl", rows), tmp_path / "split.json"
    dataset.write_split(split, dataset.split(dataset.read(file), held_out=["d2"]))
    train, held_out = finetune.read_samples(DataRecipe((file,), split=split))
    assert {one.document for one in held_out} == {"d2"} and len(held_out) == 2
    assert {one.document for one in train} == {"d0", "d1", "d3"}
    written(tmp_path, "all.jsonl", rows[1:])
    with pytest.raises(DatasetError, match="changed"):
        finetune.read_samples(DataRecipe((file,), split=split))


def built(tiny_llama: Path, recipe: FineTuneRecipe | None) -> Build:
    base = BaseRecipe("test/tiny", "Apache-2.0", Source(folder=FolderSource(tiny_llama)))
    whole: Recipe = replace(untuned(), base=base, finetune=recipe)
    return Build(whole, lambda stage, state: None)


def test_without_a_section_there_is_nothing_to_train(tiny_llama: Path, parent: Stage) -> None:
    build = built(tiny_llama, None)
    assert build.tuned(parent) is parent
    with pytest.raises(ConfigError, match="no section finetune"):
        build.adapter(parent)


@pytest.mark.process
def test_recipe_with_data_gives_another_parent_and_the_command_its_adapter(
    tiny_llama: Path, recipe: FineTuneRecipe, tmp_path: Path
) -> None:
    from optimize.finetune_recipe import AdapterSource

    child.quiet()
    build = built(tiny_llama, recipe)
    base = build.parent()
    tuned = build.tuned(base)
    assert [stage.name for stage in build.stages] == ["parent", "adapter", "merged"]
    assert set(tuned.files) == {*base.files, "merged.json"}
    changed = {name for name in base.files if base.files[name] != tuned.files[name]}
    assert "model.safetensors" in changed
    assert not changed & {"tokenizer.json", "chat_template.jinja", "tokenizer_config.json"}
    assert manifest.recipe_digest(build) != manifest.recipe_digest(built(tiny_llama, None))

    path = tmp_path / "recipe.yaml"
    path.write_text(finetune_yaml(tiny_llama, recipe))
    result = CliRunner().invoke(optimize, ["finetune", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    adapter = next(stage for stage in build.stages if stage.name == "adapter")
    assert told["sha256"] == sha256_file(tmp_path / "out" / finetune.ADAPTER) == adapter.files[finetune.ADAPTER]
    assert told["cached"] is True

    ready = built(tiny_llama, None)
    source = AdapterSource(tmp_path / "out", told["sha256"])
    ready.recipe = replace(ready.recipe, adapter=source)
    assert ready.tuned(ready.base()).digest == tuned.digest
    assert str(tmp_path) not in json.dumps(manifest.recipe_digest(ready))


def finetune_yaml(tiny_llama: Path, recipe: FineTuneRecipe) -> str:
    import yaml

    from edge.config import to_plain

    content = to_plain(replace(untuned(), finetune=recipe))
    content["base"] = {"id": "test/tiny", "licence": "Apache-2.0", "source": {"folder": {"path": str(tiny_llama)}}}
    return str(yaml.safe_dump(content))


def test_a_folder_that_is_no_adapter_is_not_replaced(tmp_path: Path, recipe: FineTuneRecipe, tiny_llama: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(finetune_yaml(tiny_llama, recipe))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    result = CliRunner().invoke(optimize, ["finetune", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, BuildError)
    assert "holds something that is no adapter" in str(result.exception)
    assert (tmp_path / "out" / "precious").exists()


def test_olive_gets_the_same_recipe(recipe: FineTuneRecipe) -> None:
    options = lora_olive._pass(
        replace(recipe, trainer="olive", steps=0, epochs=2.0, batch=2, accumulation=2), samples=10
    )
    assert options["type"] == "LoRA"
    assert (options["r"], options["alpha"], options["target_modules"]) == (2, 32.0, list(recipe.targets))
    assert options["training_args"]["max_steps"] == 5
    assert options["training_args"]["per_device_train_batch_size"] == 2
    read = lora_olive._data(Path("texts.jsonl"), recipe, 10)["pre_process_data_config"]
    assert read["max_samples"] == 10, "Olive takes -1 for a length"
    assert read["add_special_tokens"] is False


@pytest.mark.process
def test_olive_trains_an_adapter_that_is_merged(tiny_llama: Path, recipe: FineTuneRecipe, tmp_path: Path) -> None:
    """Its real pass, in its real process."""
    from safetensors.numpy import load_file

    child.quiet()
    longer = {**ROWS[0], "id": "long", "context": "word " * 400}
    data = DataRecipe((written(tmp_path, "more.jsonl", [*ROWS[:4], longer]),))
    build = built(tiny_llama, replace(recipe, data=data, trainer="olive", steps=2, batch=2, dtype="auto"))
    base = build.parent()
    tuned = build.tuned(base)
    adapter = next(stage for stage in build.stages if stage.name == "adapter")
    weights = load_file(adapter.path / finetune.ADAPTER)
    assert {tensor.shape[0] for name, tensor in weights.items() if ".lora_A." in name} == {recipe.rank}
    assert all(abs(tensor).max() > 0 for name, tensor in weights.items() if ".lora_B." in name), "it learned"
    card = json.loads((adapter.path / finetune.CARD).read_text())
    assert card["samples"] == {"train": 5, "held_out": 0, "left_out": ["long"]}
    assert card["dtype"] == "fp32", "nothing is measured for Olive"
    assert str(tmp_path) not in (adapter.path / finetune.CONFIG).read_text()
    assert tuned.files["model.safetensors"] != base.files["model.safetensors"]


@pytest.mark.parametrize(("method", "message"), [("qlora", "bitsandbytes"), ("lora", r"edge-slm\[olive-lora\]")])
def test_olive_says_what_is_missing(
    method: Any, message: str, recipe: FineTuneRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_olive.importlib.util, "find_spec", lambda name: None)
    sample = Sample("1", "d", (Message("user", "q"),), "a")
    with pytest.raises(BuildError, match=message):
        lora_olive.train(
            tmp_path, "b", replace(recipe, trainer="olive", method=method), [sample], tmp_path, tmp_path, "log"
        )
