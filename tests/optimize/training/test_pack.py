"""Packs: what is shared is read once, and the model computes what it computes for each sample alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.training.encode import Encoded
from optimize.training.pack import families, fill, pack, plan, shared_tokens

SAMPLES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=1, max_size=8), st.lists(st.integers(0, 2), min_size=1, max_size=3)
    ).map(lambda pair: Encoded("", tuple(pair[0]), tuple(pair[1]))),
    min_size=1,
    max_size=7,
)


def on_passages(seed: int = 0) -> list[Encoded]:
    """Three questions on one passage, one on another, one alone; a prompt twice, and one that begins another."""
    draw = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 500) for _ in range(count))

    system, first, second = ids(8), ids(30), ids(25)
    made = [
        Encoded("a", system + first + ids(5), ids(4)),
        Encoded("b", system + first + ids(7), ids(1)),
        Encoded("c", system + second + ids(3), ids(3)),
        Encoded("d", ids(9), ids(6)),
        Encoded("f", system + first, ids(2)),
    ]
    return [*made, Encoded("e", made[0].prompt, ids(3))]


@given(SAMPLES)
def test_each_sample_is_whole_in_the_tree(samples: list[Encoded]) -> None:
    made = pack(samples)
    assert made.samples == len(samples)
    assert len(made.ids) <= sum(one.tokens for one in samples)
    seen = []
    start = 0
    for sample in sorted(samples, key=lambda one: one.prompt):
        rows = made.rows[start : start + len(sample.completion)]
        assert tuple(made.targets[start : start + len(rows)]) == sample.completion
        for place, row in enumerate(rows):
            visible = np.flatnonzero(made.mask[row])
            assert tuple(made.ids[visible]) == (*sample.prompt, *sample.completion[:place])
            assert list(made.positions[visible]) == list(range(len(visible)))
        start += len(rows)
        seen.append(sample)
    assert start == len(made.targets)


def test_shared_prefix_is_read_once() -> None:
    made = pack(on_passages())
    assert len(made.ids) == 8 + 30 + (5 + 3) + (7 + 0) + 25 + (3 + 2) + (9 + 5) + 1 + 2
    assert not made.mask.all(axis=1).any()


@pytest.mark.parametrize(("weight", "each"), [("token", 1.0), ("completion", 0.25)])
def test_weights_say_what_counts_the_same(weight: Literal["token", "completion"], each: float) -> None:
    assert pack([Encoded("", (1, 2), (3, 4, 5, 6))], weight).weights.tolist() == [each] * 4


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_loss_and_gradients_are_those_of_separate_sequences(
    tiny_llama: Path, method: Literal["lora", "dora"], one_thread: None
) -> None:
    import torch

    from optimize.training.model import Tuned

    recipe = FineTuneRecipe(DataRecipe((Path("none"),)), method=method, dtype="fp32", rank=4, max_tokens=512)
    tuned = Tuned(tiny_llama, recipe)
    for name, parameter in tuned.peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # zeros at first: half of the gradients would be too
    samples = on_passages()

    def gradients() -> list[torch.Tensor]:
        found = [parameter.grad.clone() for parameter in tuned.parameters() if parameter.grad is not None]
        tuned.peft.zero_grad()
        return found

    together = tuned.loss(pack(samples))[0]
    together.backward()  # type: ignore[no-untyped-call]
    packed = gradients()
    alone = 0.0
    for sample in samples:
        full = torch.tensor([sample.prompt + sample.completion])
        labels = full.clone()
        labels[0, : len(sample.prompt)] = -100
        loss = tuned.base(input_ids=full, labels=labels).loss * len(sample.completion)
        loss.backward()
        alone += float(loss.detach())
    separate = gradients()
    assert float(together.detach()) == pytest.approx(alone, rel=1e-5)
    assert len(packed) == len(separate) == len(tuned.parameters())
    for one, other in zip(packed, separate, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@given(SAMPLES, st.integers(4, 30), st.integers(0, 3))
def test_packs_hold_each_sample_once_and_no_more_than_they_may(samples: list[Encoded], tokens: int, count: int) -> None:
    packs = fill(samples, families(samples), tokens, count)
    assert sorted(place for places in packs for place in places) == list(range(len(samples)))
    for places in packs:
        assert places
        size = len(pack([samples[place] for place in places]).ids)
        assert size <= tokens or len(places) == 1
        assert not count or len(places) <= count


def test_questions_on_one_passage_stay_together() -> None:
    samples = on_passages()
    groups = [sorted(samples[place].id for place in group) for group in families(samples)]
    assert ["a", "b", "e", "f"] in groups
    assert ["c"] in groups


def test_plan_is_the_same_each_time_and_another_one_for_each_epoch() -> None:
    samples = [Encoded(str(i), (i, *range(10)), (1, 2)) for i in range(40)]

    def planned(epochs: float = 2, steps: int = 0, seed: int = 1) -> list[list[list[int]]]:
        recipe = FineTuneRecipe(
            DataRecipe(("data.jsonl",)), epochs=epochs, steps=steps, accumulation=2, batch_tokens=24, seed=seed
        )
        return plan(samples, recipe)

    made = planned()
    assert made == planned()
    assert made != planned(seed=2)
    assert len(made) == 20
    assert made[:10] != made[10:]
    for epoch in (made[:10], made[10:]):
        assert sorted(place for step in epoch for places in step for place in places) == list(range(40))
    assert planned(epochs=0.5) == made[:5]
    assert planned(steps=25)[:20] == made


def test_shared_tokens() -> None:
    assert shared_tokens((1, 2, 3), (1, 2, 4)) == 2
    assert shared_tokens((1, 2), (1, 2, 4)) == 2
    assert shared_tokens((), (1,)) == 0
