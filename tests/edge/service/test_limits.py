"""The service's memory limit follows the ledger of the bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edge import footprint
from edge.box import Box
from edge.config import EdgeConfig
from edge.errors import BudgetExceeded, BundleError
from edge.memory import Limit
from edge.service.limits import memory_max
from tests import fakes

MIB = 2**20


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(footprint, "_parent_private", lambda imported: 15 * MIB)
    monkeypatch.setattr(footprint, "limit", lambda: Limit(4000 * MIB, "free memory of this machine"))
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    folder = fakes.write_bundle(tmp_path / "bundle")
    (folder / "model" / "genai_config.json").write_text('{"model": {"decoder": {"hidden_size": 576}, "vocab_size": 9}}')
    manifest = fakes.manifest_of(folder)
    memory = dataclasses.replace(manifest.memory, weights_bytes=150 * MIB, model_private_bytes=150 * MIB,
                                 embedder_private_bytes=32 * MIB)  # fmt: skip
    model = dataclasses.replace(manifest.model, context_tokens=2048)
    fakes.write_seal(folder, dataclasses.replace(manifest, memory=memory, model=model))
    return Box(folder, tmp_path / "index.db", EdgeConfig())


def test_it_holds_the_plan_with_an_ingest_and_room(box: Box) -> None:
    from edge.budget import Use, fit

    size, source = memory_max(box)
    plan = fit(box.parts, Limit(size, "the service"), Use(2048, ingest=True))
    assert (plan.use.context_tokens, plan.refusals, plan.aside) == (2048, (), False)
    assert 64 * MIB <= size - plan.bytes <= 200 * MIB
    assert size % MIB == 0
    assert f"{size / MIB:.1f} MiB: fake with a context of 2048 tokens, 4 at a time, and an ingest beside it" in source


def test_two_at_a_time_get_more(box: Box) -> None:
    one, _ = memory_max(box)
    server = dataclasses.replace(box.config.server, sessions=40)
    two, source = memory_max(Box(box.bundle_path, box.index_path, dataclasses.replace(box.config, server=server)))
    assert two > one
    assert "40 at a time" in source


def test_no_more_than_the_machine_has(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "limit", lambda: Limit(330 * MIB, "free memory of this machine"))
    size, source = memory_max(box)
    assert size == 330 * MIB
    assert "no room for an ingest" in source
    monkeypatch.setattr(footprint, "limit", lambda: Limit(60 * MIB, "free memory of this machine"))
    with pytest.raises(BudgetExceeded):
        memory_max(box)


def test_without_a_bundle_it_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--memory-max"):
        memory_max(Box(tmp_path / "bundle", tmp_path / "index.db", EdgeConfig()))
