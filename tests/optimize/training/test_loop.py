"""The loop, in this process: it learns, stops early, breaks down with a reason, and goes on from a checkpoint."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import BuildError
from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.training import checkpoint, loop
from optimize.training import model as training_model
from optimize.training.checkpoint import Progress
from optimize.training.encode import Encoded
from optimize.training.losses import write_losses
from optimize.training.model import Dtype, Tuned, choose_dtype, cpu_has_bf16, time_products
from optimize.training.pack import pack

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]
FILES = DataRecipe((Path("train"),), (Path("held-out"),))
RECIPE = FineTuneRecipe(
    FILES,
    dtype="fp32",
    rank=4,
    dropout=0.1,
    steps=6,
    accumulation=2,
    batch_tokens=64,
    max_tokens=64,
    checkpoint_every_sec=1000.0,
)
SAMPLES = [Encoded(str(i), (*range(3, 13), 20 + i, 30 + i % 3), (100 + i % 3, 2)) for i in range(12)]
HELD_OUT = [Encoded("x", (*range(3, 13), 40, 31), (101, 2))]


def trained(
    tiny_llama: Path, work: Path, recipe: FineTuneRecipe = RECIPE, stop_at: int = 0, held_out: list[Encoded] = HELD_OUT
) -> tuple[Progress, dict[str, Any], list[loop.Report]]:
    reports: list[loop.Report] = []
    work.mkdir(exist_ok=True)
    tuned = Tuned(tiny_llama, recipe, checkpoint.recorded_dtype(work))
    progress, weights = loop.train(
        tuned, SAMPLES, held_out, work, reports.append, lambda: bool(stop_at) and reports[-1].step == stop_at
    )
    return progress, weights, reports


def test_it_learns_and_says_how_far_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=25, learning_rate=5e-3, eval_every_steps=10, dropout=0.0)
    progress, _, reports = trained(tiny_llama, tmp_path, recipe)
    assert [report.step for report in reports] == list(range(1, 26))
    assert reports[-1].loss < reports[0].loss / 2
    assert [step for step, _ in progress.held_out] == [10, 20, 25]
    assert progress.held_out[-1][1] < reports[0].loss / 2
    assert reports[0].left_sec > 0
    assert reports[-1].left_sec == 0
    assert all(report.tokens_per_sec > report.completions_per_sec > 0 for report in reports)


@pytest.mark.parametrize("stop_at", [1, 4])
def test_resumed_run_ends_with_the_same_bits(tiny_llama: Path, tmp_path: Path, stop_at: int) -> None:
    whole, weights, _ = trained(tiny_llama, tmp_path / "whole")
    with pytest.raises(loop.Stopped):
        trained(tiny_llama, tmp_path / "parts", stop_at=stop_at)
    resumed, again, reports = trained(tiny_llama, tmp_path / "parts")
    assert reports[0].step == stop_at + 1
    assert resumed == whole
    assert all((weights[name] == again[name]).all() for name in weights)


def test_a_finished_run_is_not_trained_on(tiny_llama: Path, tmp_path: Path) -> None:
    _, weights, _ = trained(tiny_llama, tmp_path)
    _, again, reports = trained(tiny_llama, tmp_path)
    assert reports == []
    assert all((weights[name] == again[name]).all() for name in weights)


def test_early_stop_keeps_the_best(tiny_llama: Path, tmp_path: Path) -> None:
    """What is held out is what must not be learned: its loss rises as soon as something is."""
    against = [Encoded("x", SAMPLES[0].prompt, (300, 301))]
    recipe = replace(RECIPE, steps=40, learning_rate=5e-3, eval_every_steps=2, patience=2, warmup_share=0.0)
    progress, weights, _ = trained(tiny_llama, tmp_path, recipe, held_out=against)
    assert progress.step < 40
    assert progress.step == progress.best_step + 4
    tuned = Tuned(tiny_llama, recipe)
    tuned.load_state(weights)
    assert loop.held_out_loss(tuned, against) == pytest.approx(progress.best_loss)


def test_loss_that_is_not_finite_ends_it_and_keeps_what_was_good(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Tuned.loss, []

    def breaks(self: Tuned, *given: Any) -> Any:
        calls.append(given)
        loss, distance = original(self, *given)
        return loss * (math.nan if len(calls) == 6 else 1.0), distance

    monkeypatch.setattr(Tuned, "loss", breaks)
    with pytest.raises(loop.Broken, match=r"broke down at step 3: the loss is nan.*last-good.*Lower .*learning_rate"):
        trained(tiny_llama, tmp_path)
    found = checkpoint.load(tmp_path)
    assert found is not None
    progress, content = found
    assert progress.step == 2
    assert all(tensor.isfinite().all() for tensor in content["weights"].values())


def test_full_disk_leaves_the_checkpoint_before(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = checkpoint.write_atomic, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content)

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(BuildError, match=r"disk is full, so step 3 .*EDGE_CACHE"):
        trained(tiny_llama, tmp_path, replace(RECIPE, checkpoint_every_sec=0.0))
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[0].step == 2


def test_checkpoint_that_cannot_be_read_is_made_again(tiny_llama: Path, tmp_path: Path) -> None:
    trained(tiny_llama, tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:1000])
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_layer_that_is_not_there_is_named(tiny_llama: Path) -> None:
    with pytest.raises(BuildError, match=r"no layer c_attn: finetune.targets may name down_proj, .*q_proj"):
        Tuned(tiny_llama, replace(RECIPE, targets=("q_proj", "c_attn")))


def test_more_tokens_than_the_base_was_trained_for_are_refused(tiny_llama: Path) -> None:
    with pytest.raises(BuildError, match="max_tokens is 600, and the base was trained for 512"):
        Tuned(tiny_llama, replace(RECIPE, batch_tokens=1024, max_tokens=600))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.5, 1, *((1 + math.cos(math.pi * past / 6)) / 2 for past in range(6))]),
    ],
)
def test_schedules(schedule: Any, shares: list[float]) -> None:
    recipe = replace(RECIPE, schedule=schedule, warmup_share=0.25)
    assert [loop.rate_share(step, 8, recipe) for step in range(8)] == pytest.approx(shares)


def test_cpu_that_has_instructions_for_bf16(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in (("fpu avx512f avx512_bf16 amx_tile", True), ("fpu avx2 avx512f", False), ("", False)):
        cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
        assert cpu_has_bf16(cpuinfo) is expected
    assert not cpu_has_bf16(tmp_path / "none")


@pytest.mark.parametrize(
    ("dtype", "flag", "took", "expected"),
    [
        ("auto", True, (3.0, 2.0), "fp32"),
        ("auto", True, (2.0, 3.0), "bf16"),
        ("auto", True, (1.95, 2.0), "fp32"),  # a close call
        ("auto", False, (1.0, 9.0), "fp32"),
        ("bf16", False, (9.0, 1.0), "bf16"),
        ("fp32", True, (1.0, 9.0), "fp32"),
    ],
)
def test_auto_takes_what_is_faster(
    dtype: Any, flag: bool, took: tuple[float, float], expected: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(training_model, "cpu_has_bf16", lambda: flag)
    asked: list[Any] = []

    def measure(tokens: int, shape: tuple[int, int]) -> dict[Dtype, float]:
        asked.append((tokens, shape))
        return {"bf16": took[0], "fp32": took[1]}

    recipe = replace(RECIPE, dtype=dtype)
    assert choose_dtype(recipe, torch.device("cpu"), (128, 64), measure) == expected
    assert asked == ([(64, (128, 64))] if dtype == "auto" and flag else [])


def test_probe_is_short_and_draws_no_random_numbers() -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    took = time_products(512, (1536, 576))
    assert torch.equal(torch.rand(4), expected)
    assert set(took) == {"bf16", "fp32"}
    assert all(0 < seconds < 2 for seconds in took.values())


@pytest.mark.parametrize(("first", "second"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_resumed_run_computes_as_it_began_whatever_the_probe_says_then(
    tiny_llama: Path, tmp_path: Path, first: Dtype, second: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = replace(RECIPE, dtype="auto")
    monkeypatch.setattr(training_model, "cpu_has_bf16", lambda: True)
    said = {"bf16": 1.0, "fp32": 1.0, first: 0.1}
    monkeypatch.setattr(training_model, "time_products", lambda tokens, shape: said)
    whole, weights, _ = trained(tiny_llama, tmp_path / "whole", auto)
    assert whole.dtype == first
    with pytest.raises(loop.Stopped):
        trained(tiny_llama, tmp_path / "parts", auto, stop_at=2)
    said.update({first: 1.0, second: 0.1})
    assert Tuned(tiny_llama, auto).dtype == second
    with pytest.raises(ValueError, match=f"of a training in {first}"):
        loop.train(Tuned(tiny_llama, auto), SAMPLES, HELD_OUT, tmp_path / "parts", lambda report: None)
    resumed, again, _ = trained(tiny_llama, tmp_path / "parts", auto)
    assert resumed == whole
    assert all((weights[name] == again[name]).all() for name in weights)
    other, differs, _ = trained(tiny_llama, tmp_path / "other", auto)
    assert other.dtype == second
    assert any((weights[name] != differs[name]).any() for name in weights), "the type would have made a difference"


def test_losses_are_written_and_drawn_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    progress = Progress(3, [[1, 2.0], [2, 1.5], [3, 1.25]], [[3, 1.75]], 1.75, 3)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_losses(progress, tmp_path / name)
    content = json.loads((tmp_path / "one" / "losses.json").read_text())
    assert content["train_nats"] == [[1, 2.0], [2, 1.5], [3, 1.25]]
    assert content["held_out_nats"] == [[3, 1.75]]
    drawn = (tmp_path / "one" / "losses.svg").read_bytes()
    assert b"held out" in drawn or b"<path" in drawn
    assert drawn == (tmp_path / "two" / "losses.svg").read_bytes()


def test_an_anchor_keeps_the_model_near_its_base_where_no_answer_is_predicted(tiny_llama: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=12, learning_rate=5e-3, dropout=0.0)
    read = pack(SAMPLES[:4])
    rows = np.setdiff1d(np.arange(len(read.ids)), read.rows)
    found = {}
    for anchor in (0.0, 20.0):
        work = tmp_path / str(anchor)
        work.mkdir()
        tuned = Tuned(tiny_llama, replace(recipe, anchor=anchor))
        assert float(tuned.loss(read, 0.0, rows)[1] or 0.0) == pytest.approx(0.0, abs=1e-6)  # untrained, it is its base
        reports: list[loop.Report] = []
        loop.train(tuned, SAMPLES, HELD_OUT, work, reports.append)
        with tuned.evaluating():
            distance = tuned.loss(read, 0.0, rows)[1]
        assert distance is not None and reports[-1].loss < reports[0].loss
        found[anchor] = float(distance)
    assert 0 <= found[20.0] < found[0.0] / 2
