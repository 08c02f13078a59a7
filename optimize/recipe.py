"""A recipe: one YAML file that says what to build and how good it must be. See configs/optimize/."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge.config import load
from edge.errors import ConfigError
from optimize.embedder import EmbedderRecipe
from optimize.finetune_recipe import AdapterSource, FineTuneRecipe
from optimize.reranker import RerankerRecipe
from optimize.shipped import DEFAULT, shipped
from optimize.sources import Source
from optimize.targets.openvino_recipe import OpenvinoRecipe
from optimize.targets.qnn_recipe import QnnRecipe

_SELECTORS = ("last_matmul", "mixed_layers")
_ADAPTER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class BaseRecipe:
    """The model that a build starts from."""

    id: str  # as its authors call it
    licence: str  # SPDX identifier
    source: Source


@dataclass(frozen=True)
class ModelRecipe:
    """How the weights are stored and computed with. Names are those of onnxruntime-genai's model builder."""

    precision: Literal["int4", "int8", "fp32"]
    block_size: int = 32  # weights that share one scale
    algorithm: Literal["default", "rtn", "k_quant", "gptq"] = "default"  # gptq: calibrated on finetune.data
    mixed_precision: dict[str, Literal["int4", "int8"]] = field(default_factory=dict)  # part -> precision
    accuracy_level: int = 4  # 1: fp32 activations, 4: int8 activations
    symmetric: bool = True
    shared_embeddings: bool = True  # one quantized table for the embedding and the LM head
    logits_rows: int = 1  # last positions of a step that get logits; 0: all
    fuse_mlp_gate_up: bool = True
    kv_cache: Literal["float32", "int8"] = "float32"
    context_tokens: int = 2048  # prompt and answer together

    def __post_init__(self) -> None:
        if self.block_size not in (16, 32, 64, 128, 256):
            raise ValueError("block_size must be 16, 32, 64, 128 or 256")
        if self.accuracy_level not in (1, 4):
            raise ValueError("accuracy_level must be 1 (fp32 activations) or 4 (int8 activations)")
        if unknown := sorted(set(self.mixed_precision) - set(_SELECTORS)):
            raise ValueError(f"mixed_precision knows {', '.join(_SELECTORS)}, not {', '.join(unknown)}")
        if self.precision != "int4" and self.mixed_precision:
            raise ValueError("mixed_precision raises parts of an int4 build; it needs precision: int4")
        if self.algorithm == "gptq" and (self.precision != "int4" or self.fuse_mlp_gate_up):
            raise ValueError("algorithm: gptq needs precision: int4, and fuse_mlp_gate_up: false")
        if self.logits_rows < 0:
            raise ValueError("logits_rows must be 0 (all) or more")
        if self.context_tokens < 256:
            raise ValueError("context_tokens must be at least 256")

    @property
    def head_bits(self) -> int:
        """Bits per weight of the LM head."""
        return {"fp32": 32, "int8": 8, "int4": 4}[self.mixed_precision.get("last_matmul", self.precision)]


@dataclass(frozen=True)
class GateRecipe:
    """What the build may lose against its fp32 parent, over the text in optimize/data/gate."""

    max_kl_nats: float  # mean KL divergence of the next-token distribution
    max_perplexity_ratio: float  # of the build to the parent
    min_top1_agreement: float  # share of positions with the same most likely token, 0..1
    min_greedy_agreement: float  # share of 32 greedy tokens before the first difference, 0..1
    tokens: int = 10_240  # positions compared
    window_tokens: int = 512
    prompts: int = 32  # for the greedy comparison

    def __post_init__(self) -> None:
        if self.window_tokens < 32 or self.tokens < self.window_tokens or self.prompts < 1:
            raise ValueError("tokens >= window_tokens >= 32 and prompts >= 1 are needed")


@dataclass(frozen=True)
class TunedGateRecipe:
    """What a tuned build must be worth, against its parent built the same way: see optimize/tuned_gate.py."""

    max_p: float = 0.05  # that its F1 on the held-out questions is not higher: paired bootstrap, one-sided
    max_forgetting: float = 0.02  # share of the parent's next-token accuracy on the gate's text that it may lose
    max_sec_ratio: float = 1.25  # median seconds a question, of the parent's
    max_memory_ratio: float = 1.05  # private bytes of the loaded model, of the parent's
    questions: int = 200  # held-out questions asked, at most

    def __post_init__(self) -> None:
        if not (0 < self.max_p < 1 and self.max_sec_ratio > 0 and self.max_memory_ratio > 0 and self.questions > 0):
            raise ValueError("max_p must be between 0 and 1, ratios and questions more than 0")


@dataclass(frozen=True)
class AdapterRecipe(AdapterSource):
    """An adapter that stays separate, to be chosen for a request: see optimize/adapters.py."""

    answers: Literal["free", "marked"] = "free"  # what the model writes with it, as `Recipe.answers` without
    languages: tuple[str, ...] = ()  # as `Recipe.languages`


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a bundle holds."""

    name: str
    version: str
    target: Literal["cpu", "qnn", "openvino"]  # what it is built for besides the CPU: see optimize/targets
    base: BaseRecipe
    model: ModelRecipe
    embedder: EmbedderRecipe
    gate: GateRecipe
    reranker: RerankerRecipe | None = None  # a cross-encoder beside it, for `edge ask --rerank`
    answers: Literal["free", "marked"] = "free"  # marked: the model is tuned to cite, as optimize/dataset/examples.py
    languages: tuple[str, ...] = ()  # ISO 639-1: of the passages that the tuning covers; in others it is not trusted
    adapter: AdapterSource | None = None  # an adapter that is ready, to merge
    finetune: FineTuneRecipe | None = None  # an adapter to train, on top of the ready one if there is one
    tuned_gate: TunedGateRecipe | None = field(default_factory=TunedGateRecipe)  # None: a tuned build is not compared
    adapters: dict[str, AdapterRecipe] = field(default_factory=dict)  # by name: beside the build, chosen per request
    qnn: QnnRecipe | None = None  # how to build for target qnn
    openvino: OpenvinoRecipe | None = None  # how to build for target openvino

    def __post_init__(self) -> None:
        for name in self.adapters:
            if not _ADAPTER_NAME.fullmatch(name):
                raise ValueError(f"adapters: {name!r} is no name; take lower-case letters, digits, - and _")


def load_recipe(name_or_path: str = DEFAULT) -> Recipe:
    """Read a recipe by the name of a shipped one or by its path; relative paths inside it start at its folder.

    :raises ConfigError: there is no such recipe, or it does not fit; names file and line.
    """
    path = Path(name_or_path)
    if not path.suffix and not path.is_file():
        known = shipped()
        if name_or_path not in known:
            raise ConfigError(f"no recipe {name_or_path!r}: give the path of a YAML file, or one of {', '.join(known)}")
        path = known[name_or_path]
    recipe: Recipe = _anchored(load(Recipe, path), path.resolve().parent)
    return recipe


def _anchored(value: Any, folder: Path) -> Any:
    """The same frozen data with every relative path below `folder`."""
    if isinstance(value, Path):
        return folder / value.expanduser()
    if isinstance(value, dict):
        return {key: _anchored(item, folder) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_anchored(item, folder) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {spec.name: _anchored(getattr(value, spec.name), folder) for spec in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value
