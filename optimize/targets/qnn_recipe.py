"""The section `qnn` of a recipe: how the model is built for a Qualcomm NPU (Hexagon)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class NpuGate:
    """What the NPU's form may lose, over the text in optimize/data/gate.

    Both forms are rounded from one fp32 parent, each in its own way, so they differ more from each other than from it.
    """

    max_parent_top1_loss: float = (
        0.01  # share of positions with the parent's most likely token, less than the CPU form has
    )
    max_parent_kl_nats: float = 0.05  # mean KL divergence of the next-token distribution from the parent's
    min_top1_agreement: float = 0.95  # the same two against the CPU form of the same bundle
    max_kl_nats: float = 0.05
    tokens: int = 1024  # positions compared with the graphs on the CPU
    compiled_tokens: int = 0  # positions compared with compiled graphs in the simulator, which is slow; 0: none

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.max_parent_top1_loss, self.min_top1_agreement)):
            raise ValueError("max_parent_top1_loss and min_top1_agreement must be between 0 and 1")
        if not (self.max_parent_kl_nats >= 0 and self.max_kl_nats >= 0):
            raise ValueError("max_parent_kl_nats and max_kl_nats must be 0 or more")
        if self.tokens < 256:
            raise ValueError("tokens must be at least 256: fewer positions decide nothing")
        if self.compiled_tokens < 0:
            raise ValueError("compiled_tokens must be 0 or more")

    @property
    def parent(self) -> tuple[float, float]:
        """What is asked for against the fp32 parent: see `optimize.targets.npu_gate.judge`."""
        return self.max_parent_top1_loss, self.max_parent_kl_nats


@dataclass(frozen=True)
class QnnRecipe:
    """Static shapes, weights and activations as integers with scales beside them (QDQ), compiled for each chip."""

    soc_models: tuple[str, ...] = ("60",)  # Qualcomm's numbers of the chips to compile for; empty: none
    chunk_tokens: int = 64  # of the prompt, read at once: the static shape of the graph `context`
    context_tokens: int = 2048  # prompt and answer together
    per_channel: bool = True  # a scale for each column of a weight; false: one for all of it
    rotate: bool = True  # turn hidden states so that none is far larger than the others (QuaRot, arXiv:2404.00456)
    head_block_size: Literal[16, 32, 64, 128, 256] = (
        32  # weights of the LM head, which the CPU runs, that share a scale
    )
    activations: Literal["uint16", "uint8"] = "uint16"
    calibration_tokens: int = 4096  # tokens that the ranges of activations are measured on
    provider_options: dict[str, str] = field(default_factory=dict)  # of QNNExecutionProvider
    min_assigned_share: float = 0.9  # of the nodes of `context` and `iterator` that the NPU must take, 0..1
    gate: NpuGate = field(default_factory=NpuGate)

    def __post_init__(self) -> None:
        if not 16 <= self.chunk_tokens <= self.context_tokens:
            raise ValueError("chunk_tokens must be 16 or more, and no more than context_tokens")
        if self.calibration_tokens < 256:
            raise ValueError("calibration_tokens must be at least 256")
        if not 0 <= self.min_assigned_share <= 1:
            raise ValueError("min_assigned_share must be between 0 and 1")
        if wrong := [soc for soc in self.soc_models if not soc.isdigit()]:
            raise ValueError(f"soc_models are numbers, as Qualcomm lists them, not {', '.join(wrong)}")
        if len(set(self.soc_models)) < len(self.soc_models):
            raise ValueError("soc_models names a chip twice")
