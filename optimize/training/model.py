"""The parent with a fresh adapter, and the loss of a pack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BuildError
from edge.machine import cores
from optimize.finetune_recipe import FineTuneRecipe
from optimize.training.pack import Pack

if TYPE_CHECKING:
    import torch

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As /proc/cpuinfo has them, on x86-64 and on arm64."""


class Tuned:
    """A causal language model with an adapter in training; the base weights are frozen.

    :raises BuildError: the base lacks a layer of `recipe.targets`, or was trained for fewer tokens.
    """

    def __init__(self, parent: Path, recipe: FineTuneRecipe) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cores()))
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = is_bf16(recipe, self.device)
        base = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32, attn_implementation="sdpa")
        most = getattr(base.config, "max_position_embeddings", recipe.max_tokens)
        if recipe.max_tokens > most:
            raise BuildError(f"finetune.max_tokens is {recipe.max_tokens}, and the base was trained for {most} tokens")
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # peft takes floats
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.targets),
            use_dora=recipe.method == "dora",
            task_type="CAUSAL_LM",
        )
        linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
        known = {name.rsplit(".", 1)[-1] for name in linear}
        if missing := sorted(set(recipe.targets) - known):
            raise BuildError(
                f"the base model has no layer {', '.join(missing)}: finetune.targets may name "
                f"{', '.join(sorted(known))}"
            )
        self.peft: Any = get_peft_model(base, config)
        self.base: Any = self.peft.get_base_model()
        if self.bf16 and recipe.method == "lora":
            _round_frozen(self.base)
        self.peft.to(self.device)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.peft.parameters() if parameter.requires_grad]

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's weights, copied, by peft's names."""
        from peft import get_peft_model_state_dict

        weights = get_peft_model_state_dict(self.peft)
        return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def config(self) -> dict[str, Any]:
        """peft's configuration of the adapter."""
        return dict(self.peft.peft_config["default"].to_dict())

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.peft, state)

    def loss(self, pack: Pack, label_smoothing: float = 0.0) -> torch.Tensor:
        """Sum of the weighted losses of a pack's targets, nats; float32 ().

        The LM head is computed where a target is predicted, and nowhere else.
        """
        import torch

        given = [torch.from_numpy(array).to(self.device) for array in (pack.ids, pack.positions, pack.mask, pack.rows)]
        ids, positions, mask, rows = given
        with self._autocast():
            logits = self.base(
                input_ids=ids[None],  # (1, T)
                position_ids=positions[None],  # (1, T)
                attention_mask=mask[None, None],  # (1, 1, T, T)
                logits_to_keep=rows,
                use_cache=False,
            ).logits[0]  # (K, vocabulary)
        targets, weights = (torch.from_numpy(array).to(self.device) for array in (pack.targets, pack.weights))
        losses = torch.nn.functional.cross_entropy(
            logits.float(), targets, reduction="none", label_smoothing=label_smoothing
        )
        return (losses * weights).sum()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        import torch

        self.peft.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.peft.train()

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def is_bf16(recipe: FineTuneRecipe, device: torch.device) -> bool:
    """Whether matrix products are computed in bfloat16 on this hardware."""
    import torch

    if recipe.dtype != "auto":
        return recipe.dtype == "bf16"
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 itself; one that emulates it is slower than in float32."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(_BF16_FLAGS & set(flags.split()))


def _round_frozen(base: Any) -> None:
    """Keep frozen matrices in bfloat16: autocast would round them anew in each step."""
    import torch

    head = base.get_output_embeddings()
    for module in base.modules():
        if isinstance(module, torch.nn.Linear) and module is not head and not module.weight.requires_grad:
            module.to(torch.bfloat16)
