"""A bundle for an NPU answers in its simulator as it does on the CPU: minutes, `scripts/qualify npu --bundle DIR`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BUNDLE = os.environ.get("EDGE_NPU_BUNDLE")
SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "documents"
QUESTIONS = ("How long does a firmware update take?", "What supply voltage does the gateway accept?")
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        BUNDLE is None or importlib.util.find_spec("onnxruntime_qnn") is None,
        reason="needs EDGE_NPU_BUNDLE (`edge optimize run npu-qnn`) and onnxruntime-qnn",
    ),
]


def edge(home: Path, *arguments: str) -> dict[str, Any]:
    call = [sys.executable, "-m", "edge", *arguments, "--bundle", str(BUNDLE), "--json"]
    environment = {**os.environ, "EDGE_HOME": str(home)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_simulator_answers_as_the_cpu_does(tmp_path: Path) -> None:
    config = tmp_path / "simulator.yaml"
    config.write_text("engine: {accelerator: simulator, silence_sec: 600.0}\n")
    edge(tmp_path, "ingest", str(SAMPLES))
    figures = []
    for question in QUESTIONS:
        on_cpu = edge(tmp_path, "ask", question)
        on_npu = edge(tmp_path, "ask", question, "--config", str(config))
        figures.append({"question": question, "cpu": on_cpu["answer"], "npu": on_npu["answer"],
                        "prompt_tokens": on_npu["prompt_tokens"], "ttft_sec": on_npu["ttft_sec"]})  # fmt: skip
        assert on_npu["answer"].split(" [")[0] == on_cpu["answer"].split(" [")[0]
        assert [c["text"] for c in on_npu["citations"]] == [c["text"] for c in on_cpu["citations"]]
    if report := os.environ.get("EDGE_NPU_REPORT"):
        Path(report).write_text(json.dumps(figures), encoding="utf-8")
