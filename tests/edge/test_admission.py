"""A box asks the ledger before it loads: what fits is loaded, what does not is refused, and a lowered limit counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edge import budget, footprint, memory
from edge.box import Box
from edge.budget import Part
from edge.bundle import Bundle
from edge.config import EdgeConfig, EngineConfig, parse
from edge.engine import prepared
from edge.errors import BudgetExceeded, BundleError, ConfigError, EngineError
from edge.mapped import USED
from edge.memory import Limit
from tests import fakes

MIB = 2**20
DECODER = {"model": {"decoder": {"hidden_size": 576}, "vocab_size": 49152}}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of fake files with a true ledger: 160 MiB of weights, 2048 tokens of 46,080 bytes."""
    monkeypatch.setattr(footprint, "_parent_private", lambda imported: 15 * MIB)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    folder = fakes.write_bundle(tmp_path / "bundle")
    (folder / "model" / "genai_config.json").write_text(json.dumps(DECODER))
    manifest = fakes.manifest_of(folder)
    model = dataclasses.replace(
        manifest.model,
        context_tokens=2048,
        kv_cache=dataclasses.replace(manifest.model.kv_cache, bytes_per_token=46080),
    )
    sizes = dataclasses.replace(
        manifest.memory, weights_bytes=150 * MIB, model_private_bytes=160 * MIB, embedder_private_bytes=32 * MIB
    )
    fakes.write_seal(folder, dataclasses.replace(manifest, model=model, memory=sizes))
    return folder


def box_of(bundle: Path, notes: list[str] | None = None, prepare: bool = False, **changes: Any) -> Box:
    config = EdgeConfig(engine=EngineConfig(prepare=prepare), **changes)
    return Box(bundle, bundle.parent / "index.db", config, notes.append if notes is not None else None)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prepared copy of the bundle's weights: 165 MiB beside the bundle's own 150."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with (copy / "model.onnx.data").open("wb") as stream:
        stream.truncate(315 * MIB)
    monkeypatch.setattr(prepared, "find", lambda bundle, cache: copy)


def allow(monkeypatch: pytest.MonkeyPatch, mib: float) -> None:
    """The system allows so much, by a cgroup."""
    limit = Limit(int(mib * MIB), "memory.max of cgroup /test")
    monkeypatch.setattr(footprint, "limit", lambda: limit)
    monkeypatch.setattr(memory, "cgroup_limit", lambda: limit)


def test_the_budget_is_what_was_asked_for_but_no_more_than_the_system_allows(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, 500)
    assert box_of(bundle).budget == Limit(500 * MIB, "memory.max of cgroup /test")
    assert box_of(bundle, memory_budget="256MiB").budget == Limit(256 * MIB, "memory_budget")
    assert box_of(bundle, memory_budget="1GiB").budget.bytes == 500 * MIB


def test_a_system_that_does_not_say(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> Limit:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(footprint, "limit", silent)
    assert box_of(bundle, memory_budget="256MiB").budget.bytes == 256 * MIB
    with pytest.raises(BudgetExceeded, match="set memory_budget"):
        _ = box_of(bundle).budget


def test_a_context_is_cut_with_a_note(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 4000)
    whole = box_of(bundle).admit()
    assert whole.use.context_tokens == 2048
    allow(monkeypatch, 340)
    notes: list[str] = []
    box = box_of(bundle, notes)
    plan = box.admit()
    assert 512 <= plan.use.context_tokens < 2048
    assert box._config_for(plan).answer.context_tokens == plan.use.context_tokens
    assert "context 2048 needs" in notes[0]
    assert "in the memory budget of 340.0 MiB (memory.max of cgroup /test)" in notes[0]
    box.admit()
    assert len(notes) == 1  # said once


def test_what_does_not_fit_is_refused_before_anything_is_loaded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 4000)
    box = box_of(bundle, memory_budget="100MiB")
    with pytest.raises(BudgetExceeded, match="the weights alone take"):
        box.ask("anything")
    with pytest.raises(BudgetExceeded):
        _ = box.engine
    assert "embedder" not in box.__dict__ and "store" not in box.__dict__


@pytest.mark.usefixtures("packed")
def test_a_limit_lowered_between_two_questions(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Opened:
        closed = False

        def close(self) -> None:
            self.closed = True

    allow(monkeypatch, 4000)
    notes: list[str] = []
    box = box_of(bundle, notes, prepare=True)
    before = box.admit()
    engine, embedder = Opened(), Opened()
    box.__dict__.update(engine=engine, embedder=embedder)
    allow(monkeypatch, before.kept_bytes / MIB + 1)
    assert box.admit() is before
    allow(monkeypatch, 330)
    after = box.admit()
    assert after.use.context_tokens < 2048
    assert engine.closed and "engine" not in box.__dict__  # it comes back with the shorter context
    assert after.aside and embedder.closed
    allow(monkeypatch, 200)
    with pytest.raises(BudgetExceeded):
        box.admit()


@pytest.mark.usefixtures("packed")
def test_retrieval_aside_is_asked_of_another_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge import aside

    allow(monkeypatch, 330)
    asked: list[aside.Request] = []
    monkeypatch.setattr(aside, "run_aside", lambda request: asked.append(request) or [])
    box = box_of(bundle, prepare=True)
    assert box.admit().aside
    assert box.retrieve("Which tool?") == []
    assert (asked[0].call, asked[0].arguments["question"], asked[0].bundle) == ("retrieve", "Which tool?", bundle)
    assert "embedder" not in box.__dict__


def test_weights_are_packed_only_where_that_fits(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Bundle] = []

    def prepare(bundle: Bundle, cache: Path) -> Path:
        packed.append(bundle)
        raise EngineError("the copy's logits are not the bundle's")

    monkeypatch.setattr(prepared, "prepare", prepare)
    allow(monkeypatch, 4000)
    notes: list[str] = []
    box = box_of(bundle, notes, prepare=True)
    assert box.parts.prepared  # as it will be: `edge plan` packs nothing
    assert not packed
    plan = box.admit()
    assert len(packed) == 1
    assert notes[-1] == "the copy's logits are not the bundle's"
    assert not box.parts.prepared  # the ledger follows what is there
    weights = next(line for line in plan.lines if line.name == "weights")
    assert weights.bytes == 160 * MIB
    allow(monkeypatch, 230)
    notes.clear()
    with pytest.raises(BudgetExceeded):
        box_of(bundle, notes, prepare=True).admit()
    assert len(packed) == 1
    assert "run `edge bundle prepare` while there is more" in notes[0]


def test_an_ingest_leaves_its_parser_what_the_budget_allows(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 8000)
    assert box_of(bundle).ingest_config().parser_memory_bytes == EdgeConfig().ingest.parser_memory_bytes
    allow(monkeypatch, 400)
    cut = box_of(bundle).ingest_config().parser_memory_bytes
    assert 200 * MIB < cut < 400 * MIB
    allow(monkeypatch, 120)
    with pytest.raises(BudgetExceeded, match="an ingest needs a memory budget of"):
        box_of(bundle).ingest_config()


def test_what_the_ledger_reads_from_a_bundle(bundle: Path) -> None:
    parts = box_of(bundle).parts
    assert parts.kv_bytes_per_token == 46080
    assert parts.logits_bytes == 49152 * 4
    assert parts.weights.private_bytes == 160 * MIB
    assert parts.embedder.private_bytes == 32 * MIB
    (bundle / "model" / "genai_config.json").write_text("{}" + " " * (len(json.dumps(DECODER)) - 2))
    with pytest.raises(BundleError, match="edge bundle verify"):
        _ = box_of(bundle).parts


def test_prepared_weights_take_what_is_used_of_them(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "prepared"
    copy.mkdir()
    (copy / USED).write_text(json.dumps({"model.onnx.data": [[0, 100 * MIB], [110 * MIB, 180 * MIB]]}))
    box = box_of(bundle)
    there, to_come = (
        footprint.parts_of(box.bundle, box.config, threads=2, prepared=folder).weights
        for folder in (copy, tmp_path / "nowhere")
    )
    assert there.hot_bytes == 170 * MIB
    assert to_come.hot_bytes == pytest.approx(168 * MIB, rel=0.01)  # from the bundle's own 150 MiB
    assert there.private_bytes < 10 * MIB


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("memory_budget: lots", "is no size"),
        ("memory_budget: 0", "above 0"),
        ("memory_budget: 1.5", "must be of type"),
        ("memory_budget: [256MiB]", "single value"),
        ("memory_budget: 256 parsecs", "units are B, KiB, MiB, GiB"),
    ],
)
def test_a_budget_that_is_no_size_is_refused_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse(EdgeConfig, f"{line}\n", "config.yaml")
    assert "config.yaml, line 1" in str(caught.value)


@pytest.mark.parametrize("value", ["256MiB", "268435456", "null", "1.5 GiB"])
def test_budgets_in_yaml(value: str) -> None:
    parse(EdgeConfig, f"memory_budget: {value}\n", "config.yaml")


def test_parts_are_plain_numbers() -> None:
    assert budget.Part(1).hot_bytes == 0
    assert Part(1, 2, 3) == Part(private_bytes=1, mapped_bytes=2, hot_bytes=3)
