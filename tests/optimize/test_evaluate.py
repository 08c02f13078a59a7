"""The gate's arithmetic against numbers worked out by hand, and its verdict."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.errors import BuildError, GateError
from optimize import evaluate
from optimize.evaluate import GateResult, gate_text, judge
from optimize.recipe import GateRecipe

GOOD = GateResult(
    tokens=10_000,
    parent_perplexity=10.0,
    perplexity=10.1,
    perplexity_ratio=1.01,
    kl_nats=0.01,
    top1_agreement=0.95,
    greedy_agreement=0.6,
    greedy_prompts=32,
    parent_accuracy=0.34,
    accuracy=0.34,
)
LIMITS = GateRecipe(max_kl_nats=0.01, max_perplexity_ratio=1.01, min_top1_agreement=0.95, min_greedy_agreement=0.6)


def test_distances_by_hand() -> None:
    parent = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]], np.float32)) + 3  # a shift changes nothing
    build = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.6, 0.2]], np.float32))
    sums = evaluate.distances(torch.from_numpy(parent), torch.from_numpy(build), torch.tensor([0, 1]))
    assert sums["kl"] == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5), abs=1e-6)
    assert sums["parent"] == pytest.approx(-math.log(0.5) - math.log(0.6), abs=1e-6)
    assert sums["build"] == pytest.approx(-math.log(0.25) - math.log(0.6), abs=1e-6)
    assert sums["same"] == 1
    assert (sums["parent_right"], sums["build_right"]) == (2, 1)


def test_at_the_limits_it_passes_with_its_thresholds() -> None:
    judged = judge(GOOD, LIMITS)
    assert judged["kl_nats"] == 0.01
    assert judged["thresholds"] == {
        "kl_nats": 0.01, "perplexity_ratio": 1.01, "top1_agreement": 0.95, "greedy_agreement": 0.6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl_nats", 0.0101),
        ("perplexity_ratio", 1.011),
        ("top1_agreement", 0.949),
        ("greedy_agreement", 0.59),
        ("kl_nats", math.nan),
    ],
)
def test_each_threshold_can_fail_the_build(name: str, value: float) -> None:
    with pytest.raises(GateError) as caught:
        judge(replace(GOOD, **{name: value}), LIMITS)
    failed = [line.split()[0] for line in str(caught.value).splitlines() if line.endswith("FAILED")]
    assert failed == [name]
    assert len([line for line in str(caught.value).splitlines() if "must be" in line]) == 4, "the whole table is shown"


def test_windows_cover_the_text_and_never_overlap() -> None:
    recipe = replace(LIMITS, tokens=1000, window_tokens=128, prompts=4)
    windows, prompts = evaluate._cut(list(range(5000)), recipe)
    assert windows.shape == (8, 128)
    assert windows.shape[0] * (windows.shape[1] - 1) >= 1000
    assert (windows[0, 0], windows[-1, -1]) == (0, 4999)
    assert len(np.unique(windows)) == windows.size
    assert prompts.shape == (4, 64)


def test_text_that_is_too_short_is_an_error() -> None:
    with pytest.raises(BuildError, match="has 100 tokens"):
        evaluate._cut(list(range(100)), replace(LIMITS, tokens=1000, window_tokens=128))


def test_shipped_text_is_long_enough_and_absence_is_told(tmp_path: Path) -> None:
    assert len(gate_text().split()) > 8_000  # words; every tokenizer makes more tokens than words
    with pytest.raises(BuildError, match="no text"):
        gate_text(tmp_path)
