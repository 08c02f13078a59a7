"""What a bundle says of the accelerators it was also built for. See docs/targets.md and `edge.bundle`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TargetEntry:
    """One more form of the language model, for an accelerator. What `ModelSection` describes is its CPU fallback."""

    name: str  # of the target: "qnn", "openvino"
    path: str  # folder inside the bundle that onnxruntime-genai loads: genai_config.json, graphs, tokenizer
    provider: str  # ONNX Runtime's name, e.g. "QNNExecutionProvider"; CPUExecutionProvider: the graphs, not compiled
    package: str  # on PyPI, that brings the provider to a box
    package_version: str  # that the graphs were compiled with; compiled graphs run with this one
    context_tokens: int  # prompt and answer together; fixed when it was built
    chunk_tokens: int  # of the prompt, read at once in graphs of a fixed shape; 0: any number
    min_assigned_share: float  # of the nodes of the stages that belong on the provider, 0..1; fewer are refused
    weights_bytes: int
    soc_model: str | None = None  # Qualcomm's number of the chip that it was compiled for; None: any
    devices: tuple[str, ...] = ("NPU",)  # kinds of ONNX Runtime's devices that it is meant for
    provider_options: dict[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = ()  # of the pipeline in genai_config.json that belong on the provider; empty: all
    quantization: dict[str, Any] = field(default_factory=dict)  # the recipe keys that shaped it
