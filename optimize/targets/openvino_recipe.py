"""The section `openvino` of a recipe: how the model is built for an Intel NPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class OpenvinoGate:
    """What the NPU's form may lose against the CPU form of the same bundle, over the text in optimize/data/gate.

    Both are rounded from one fp32 parent, each in its own way, so they differ more from each other than from it.
    """

    min_top1_agreement: float = 0.9  # share of positions with the same most likely token, 0..1
    max_kl_nats: float = 0.02  # mean KL divergence of the next-token distribution
    tokens: int = 1024  # positions compared

    def __post_init__(self) -> None:
        if not (0 <= self.min_top1_agreement <= 1 and self.max_kl_nats >= 0):
            raise ValueError("min_top1_agreement must be between 0 and 1, max_kl_nats 0 or more")
        if self.tokens < 256:
            raise ValueError("tokens must be at least 256: fewer positions decide nothing")


@dataclass(frozen=True)
class OpenvinoRecipe:
    """Weights as integers, keys and values kept by the graph itself; the box compiles it for its NPU as it loads it."""

    weights: Literal["int8", "int4"] = "int8"
    symmetric: bool = True  # the NPU has no fast path for zero points
    group_size: int = -1  # weights of an int4 build that share one scale; -1: a column
    prompt_tokens: int = 1920  # the longest prompt: a static shape on the NPU
    answer_tokens: int = 128  # room for the answer, at least
    provider_options: dict[str, str] = field(default_factory=dict)  # of OpenVINOExecutionProvider, besides those needed
    gate: OpenvinoGate = field(default_factory=OpenvinoGate)

    def __post_init__(self) -> None:
        if self.prompt_tokens < 64 or self.answer_tokens < 1:
            raise ValueError("prompt_tokens must be 64 or more, answer_tokens 1 or more")
        if self.group_size != -1 and self.group_size not in (32, 64, 128):
            raise ValueError("group_size must be -1 (a column), 32, 64 or 128")
        if self.weights == "int8" and self.group_size != -1:
            raise ValueError("weights: int8 have one scale a column: group_size must be -1")

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.answer_tokens
