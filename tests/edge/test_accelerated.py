"""A box whose model runs on an accelerator, or should: lengths, who it says runs the model, and the metric."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge import bundle as bundles
from edge.box import Box
from edge.bundle_targets import TargetEntry
from edge.config import EdgeConfig, EngineConfig
from edge.engine.base import EngineOptions, check_fits
from edge.engine.options import on_accelerator
from edge.errors import PromptTooLong
from edge.server.metrics import Metrics
from edge.server.service import Service
from tests.fakes import write_bundle

ENTRY = TargetEntry(
    name="qnn", path="npu-60", provider="QNNExecutionProvider", package="onnxruntime-not-there",
    package_version="2.7.0", context_tokens=512, chunk_tokens=64, min_assigned_share=0.9, weights_bytes=1,
)  # fmt: skip


def box(folder: Path, notes: list[str], **engine: Any) -> Box:
    write_bundle(folder)
    made = Box(folder, folder / "index.db", EdgeConfig(engine=EngineConfig(**engine)), notes.append)
    found = bundles.load(folder)
    made.__dict__["bundle"] = dataclasses.replace(found, manifest=dataclasses.replace(found.manifest, targets=(ENTRY,)))
    return made


def test_prompt_longer_than_the_static_context_is_refused() -> None:
    options = EngineOptions(context_tokens=2048, threads=2, prefix_caches=2, sessions=3, draft_tokens=4)
    told = on_accelerator(options, ENTRY)
    assert (told.context_tokens, told.provider) == (512, "QNNExecutionProvider")
    assert (told.sessions, told.prefix_caches, told.draft_tokens) == (1, 0, 0)
    check_fits(400, told.context_tokens)
    with pytest.raises(PromptTooLong, match="the prompt has 600 tokens and the context is 512"):
        check_fits(600, told.context_tokens)
    assert on_accelerator(dataclasses.replace(options, context_tokens=256), ENTRY).context_tokens == 256


def test_missing_package_leaves_the_cpu_with_one_warning(tmp_path: Path) -> None:
    notes: list[str] = []
    made = box(tmp_path, notes)
    assert [made.provider, made.provider] == ["CPUExecutionProvider"] * 2
    assert len(notes) == 1
    assert "pip install onnxruntime-not-there==2.7.0" in notes[0]


def test_nothing_is_looked_for_where_it_is_off(tmp_path: Path) -> None:
    notes: list[str] = []
    assert box(tmp_path, notes, accelerator="off").provider == "CPUExecutionProvider"
    assert notes == []


@pytest.mark.parametrize(
    ("provider", "refused", "fell_back"),
    [("CPUExecutionProvider", 1, "true"), ("CPUExecutionProvider", 0, "false"), ("QNNExecutionProvider", 1, "false")],
)
def test_metric_says_who_runs_the_model(provider: str, refused: int, fell_back: str) -> None:
    state = {"provider": provider, "fallbacks": refused}
    gate = SimpleNamespace(running=0, waiting=0, slots=1)
    service = SimpleNamespace(gate=gate, backend=SimpleNamespace(state=state, pid=None))
    text = Metrics(cast(Service, service)).text().decode()
    assert f'edge_model_provider{{fell_back="{fell_back}",provider="{provider}"}} 1.0' in text
