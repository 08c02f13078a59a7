"""Which form of a model runs: what keeps the one for an accelerator from it, and that the CPU's always does."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edge import bundle as bundles
from edge.bundle import Bundle
from edge.bundle_targets import TargetEntry
from edge.engine import accelerator
from edge.engine.accelerator import Choice, choose, look, on_this_machine
from tests.fakes import write_bundle

ENTRY = TargetEntry(
    name="qnn", path="npu-60", provider="QNNExecutionProvider", package="onnxruntime-qnn", package_version="2.7.0",
    context_tokens=2048, chunk_tokens=64, min_assigned_share=0.9, weights_bytes=1, stages=("context",),
)  # fmt: skip
TAKEN = {"devices": ["NPU"], "share": 1.0, "left": {}}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path)
    found = bundles.load(tmp_path)
    return dataclasses.replace(found, manifest=dataclasses.replace(found.manifest, targets=(ENTRY,)))


def chosen(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any],
    *,
    version: str | None = "2.7.0",
    wanted: accelerator.Wanted = "auto",
) -> Choice:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.setattr(accelerator, "look", lambda *_: found)
    return choose(bundle, wanted)


def test_taken_by_an_npu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(bundle, monkeypatch, TAKEN) == Choice(ENTRY)


@pytest.mark.parametrize(
    ("found", "version", "message"),
    [
        (TAKEN, None, "onnxruntime-qnn is missing; on a box with that chip, `pip install onnxruntime-qnn==2.7.0`"),
        (TAKEN, "2.8.0", "compiled with onnxruntime-qnn==2.7.0, and 2.8.0 is installed"),
        ({**TAKEN, "devices": ["CPU"]}, "2.7.0", r"no NPU found \(the provider has: CPU\)"),
        ({**TAKEN, "devices": []}, "2.7.0", r"no NPU found \(the provider has: no device\)"),
        (
            {**TAKEN, "share": 0.5, "left": {"Softmax": 3}},
            "2.7.0",
            r"took 50% of the nodes.*90%; it left Softmax \(3\)",
        ),
        ({"error": "built for another SoC"}, "2.7.0", "built for another SoC"),
    ],
)
def test_else_the_cpu_and_why(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], version: str | None, message: str
) -> None:
    choice = chosen(bundle, monkeypatch, found, version=version)
    assert choice.entry is None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(*choice.refusals)
    assert choice.refusals[0].startswith("the form for qnn does not run here, so the CPU's does")


def test_a_simulator_is_no_npu_unless_it_is_asked_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = {**TAKEN, "devices": ["CPU"]}
    assert chosen(bundle, monkeypatch, simulator, wanted="simulator").entry == ENTRY
    assert chosen(bundle, monkeypatch, TAKEN, wanted="off") == Choice()


def test_graphs_for_comparison_are_not_for_use(bundle: Bundle) -> None:
    plain = dataclasses.replace(ENTRY, provider="CPUExecutionProvider", package="onnxruntime")
    assert choose(
        dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, targets=(plain,))), "auto"
    ) == (Choice())


def test_a_provider_that_crashes_takes_nobody_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "onnxruntime_qnn.py"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    module.write_text("import os\nos.kill(os.getpid(), 11)\n")
    assert "failed: exit code -11" in look("QNNExecutionProvider")["error"]
    module.write_text("def get_library_path():\n    raise OSError('libcdsprpc.so is not there')\n")
    assert look("QNNExecutionProvider") == {"error": "libcdsprpc.so is not there"}


def test_paths_of_this_machine_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "npu"
    folder.mkdir()
    (folder / "context.onnx").write_text("graph")
    stage = {"filename": "context.onnx", "session_options": {"provider_options": [{"qnn": {"soc_model": "60"}}]}}
    config = {"model": {"decoder": {"pipeline": [{"embeddings": {"filename": "e"}}, {"context": stage}]}}}
    (folder / "genai_config.json").write_text(json.dumps(config))
    module = type(sys)("onnxruntime_qnn")
    module.get_qnn_htp_path = lambda: "/lib/libQnnHtp.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", module)
    with on_this_machine(folder, "QNNExecutionProvider") as made:
        assert (Path(made) / "context.onnx").read_text() == "graph"
        told = json.loads((Path(made) / "genai_config.json").read_text())["model"]["decoder"]["pipeline"][1]["context"]
        assert told["session_options"]["provider_options"] == [
            {"qnn": {"soc_model": "60", "backend_path": "/lib/libQnnHtp.so"}}
        ]
    assert json.loads((folder / "genai_config.json").read_text()) == config
