"""The part of a recipe that says how to tune the base model, and the one that names an adapter that is ready."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SHA256_DIGITS = 64


@dataclass(frozen=True)
class DataRecipe:
    """The files that the examples come from; see optimize/dataset/files.py for the formats."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()  # never trained on; none: no held-out loss, and no early stop
    split: Path | None = None  # instead of held_out: which documents of `train` are held out

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train must name at least one file")
        if self.held_out and self.split:
            raise ValueError("give either held_out files or a split of the files in train")


@dataclass(frozen=True)
class FineTuneRecipe:
    """How an adapter is trained. A step is one update of the weights."""

    data: DataRecipe
    method: Literal["lora", "dora", "qlora"] = "lora"
    trainer: Literal["completion", "olive"] = "completion"  # olive: the loss is taken on the prompt too
    rank: int = 16
    alpha: float = 32.0  # the adapter's output is multiplied by alpha / rank
    dropout: float = 0.0  # of the adapter's input, 0..1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: float = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = 0.05  # of the steps, 0..1
    epochs: float = 2.0
    steps: int = 0  # 0: as many as the epochs take
    batch_tokens: int = 512  # read at once, at most, but for a longer example; shared prefixes count once
    batch: int = 0  # completions read at once, at most; 0: as many as batch_tokens holds
    accumulation: int = 4  # batches that one step adds up
    max_tokens: int = 1024  # a longer example is left out
    loss_weight: Literal["token", "completion"] = "token"  # what counts the same in the loss
    label_smoothing: float = 0.0  # 0..1
    anchor: float = 0.0  # weight of the distance from the base on tokens of the prompts, nats; 0: none is taken
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"  # of the matrix products; auto: what is faster here, measured
    eval_every_steps: int = 20  # held-out loss; 0: at the end only
    patience: int = 0  # held-out losses in a row that may fail to improve; 0: no early stop, the last weights are kept
    checkpoint_every_sec: float = 60.0  # 0: after each step

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "learning_rate", "accumulation", "max_grad_norm"):
            if not getattr(self, name) > 0:  # NaN is refused too
                raise ValueError(f"{name} must be more than 0")
        counts = ("steps", "batch", "eval_every_steps", "patience", "seed")
        for name in (*counts, "weight_decay", "anchor", "checkpoint_every_sec"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more")
        for name in ("dropout", "label_smoothing", "warmup_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to less than 1")
        if not self.steps and not 0 < self.epochs < float("inf"):
            raise ValueError("epochs must be more than 0 where steps is 0")
        if min(self.max_tokens, self.batch_tokens) < 16:
            raise ValueError("max_tokens and batch_tokens must be 16 or more")
        if not self.targets:
            raise ValueError("targets must name at least one kind of layer, e.g. q_proj")
        if self.patience and not ((self.data.held_out or self.data.split) and self.eval_every_steps):
            raise ValueError("patience needs data.held_out and eval_every_steps")
        self._check_trainer()

    def _check_trainer(self) -> None:
        if self.trainer == "completion":
            if self.method == "qlora":
                raise ValueError("method: qlora needs trainer: olive")
            return
        for name in ("patience", "label_smoothing"):
            if getattr(self, name):
                raise ValueError(f"trainer: olive knows no {name}")
        if self.loss_weight != "token":
            raise ValueError("trainer: olive knows no loss_weight but token")


@dataclass(frozen=True)
class AdapterSource:
    """An adapter that is ready: a folder in peft's format."""

    path: Path  # holds adapter_model.safetensors and adapter_config.json
    sha256: str  # of adapter_model.safetensors
    licence: str = ""  # SPDX identifier, for the bundle's NOTICE.md

    def __post_init__(self) -> None:
        if len(self.sha256) != _SHA256_DIGITS or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"sha256 must be {_SHA256_DIGITS} lower-case hex digits")
