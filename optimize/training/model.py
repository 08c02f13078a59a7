"""The parent with a fresh adapter, and the loss of a pack."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import BuildError
from edge.machine import cores
from optimize.finetune_recipe import FineTuneRecipe
from optimize.training.pack import Pack

if TYPE_CHECKING:
    import torch

Dtype = Literal["bf16", "fp32"]
"""Of the matrix products; everything else is computed in float32."""

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As /proc/cpuinfo has them, on x86-64 and on arm64."""
_PROBE_ROUNDS = 5
_PROBE_PRODUCTS = 500_000_000
"""Multiplications of one timed product, at most: some milliseconds on one core."""
_WORTH = 1.1
"""bfloat16 is taken where it is faster by this factor: float32 is more exact, and a close call is noise."""
_log = logging.getLogger(__name__)


class Tuned:
    """A causal language model with an adapter in training; the base weights are frozen.

    :param dtype: of the matrix products, whatever the recipe says: what a training that is resumed began with. None:
        the recipe's, and where that is auto, what `choose_dtype` finds.
    :raises BuildError: the base lacks a layer of `recipe.targets`, or was trained for fewer tokens.
    """

    def __init__(self, parent: Path, recipe: FineTuneRecipe, dtype: Dtype | None = None) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cores()))
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
        linear = {name: module for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
        known = {name.rsplit(".", 1)[-1] for name in linear}
        if missing := sorted(set(recipe.targets) - known):
            raise BuildError(
                f"the base model has no layer {', '.join(missing)}: finetune.targets may name "
                f"{', '.join(sorted(known))}"
            )
        tuned = [module.weight for name, module in linear.items() if name.rsplit(".", 1)[-1] in recipe.targets]
        largest = max(tuned, key=lambda weight: weight.numel())
        self.dtype = dtype or choose_dtype(recipe, self.device, (largest.shape[0], largest.shape[1]))
        self.peft: Any = get_peft_model(base, config)
        self.base: Any = self.peft.get_base_model()
        if self.dtype == "bf16" and recipe.method == "lora":
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

    def loss(
        self, pack: Pack, label_smoothing: float = 0.0, anchored: NDArray[np.int64] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum of the weighted losses of a pack's targets, nats, float32 (); and how far the base is, if asked.

        The LM head is computed where it is needed, and nowhere else.

        :param anchored: (N,) tokens of the pack; the second value is then the mean over them of
            KL(base || tuned) of the next-token distribution, nats, float32 (). It costs another forward pass.
        """
        import torch

        targets, weights = (torch.from_numpy(array).to(self.device) for array in (pack.targets, pack.weights))
        count = len(pack.rows)
        rows = pack.rows if anchored is None else np.concatenate([pack.rows, anchored])
        logits = self._logits(pack, rows)
        losses = torch.nn.functional.cross_entropy(
            logits[:count], targets, reduction="none", label_smoothing=label_smoothing
        )
        loss = (losses * weights).sum()
        if anchored is None:
            return loss, None
        with torch.no_grad(), self.peft.disable_adapter():
            base = torch.log_softmax(self._logits(pack, anchored), dim=-1)
        tuned = torch.log_softmax(logits[count:], dim=-1)
        return loss, torch.nn.functional.kl_div(tuned, base, reduction="batchmean", log_target=True)

    def _logits(self, pack: Pack, rows: NDArray[np.int64]) -> torch.Tensor:
        """Of the tokens at `rows`; float32 (len(rows), vocabulary)."""
        import torch

        given = [torch.from_numpy(array).to(self.device) for array in (pack.ids, pack.positions, pack.mask, rows)]
        ids, positions, mask, kept = given
        with self._autocast():
            logits: torch.Tensor = self.base(
                input_ids=ids[None],  # (1, T)
                position_ids=positions[None],  # (1, T)
                attention_mask=mask[None, None],  # (1, 1, T, T)
                logits_to_keep=kept,
                use_cache=False,
            ).logits[0]
        return logits.float()

    def judge(self, pack: Pack) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Of each of a pack's targets: its loss, nats, (K,), and whether it is the most likely token there, (K,)."""
        import torch

        with self.evaluating():
            logits, targets = self._logits(pack, pack.rows).cpu(), torch.from_numpy(pack.targets)
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            return losses.numpy(), (logits.argmax(dim=-1) == targets).numpy()

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

        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.dtype == "bf16" else nullcontext()


def choose_dtype(
    recipe: FineTuneRecipe,
    device: torch.device,
    shape: tuple[int, int],
    measure: Callable[[int, tuple[int, int]], dict[Dtype, float]] | None = None,
) -> Dtype:
    """What to compute the matrix products in: what the recipe says, or where that is auto, what is faster here.

    A CPU's flag says that it has instructions for bfloat16, not that they are worth it: with avx512_bf16 alone (no
    AMX) products of float32 may be nearly twice as fast. So both are timed, on a CPU with the flag; one without it
    emulates bfloat16, which is never faster. The answer may differ from one call to the next where the two are close:
    whoever needs the same again keeps it (the checkpoint does, and the adapter's card tells it).

    :param shape: of the largest matrix that is tuned.
    :param measure: in place of `time_products`.
    """
    import torch

    if recipe.dtype != "auto":
        return recipe.dtype
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if not cpu_has_bf16():
        return "fp32"
    took = (measure or time_products)(recipe.batch_tokens, shape)
    chosen: Dtype = "bf16" if took["bf16"] * _WORTH <= took["fp32"] else "fp32"
    _log.warning("a product takes %.2f ms in bf16, %.2f in fp32: %s", 1e3 * took["bf16"], 1e3 * took["fp32"], chosen)
    return chosen


def time_products(tokens: int, shape: tuple[int, int]) -> dict[Dtype, float]:
    """Median seconds of what a frozen layer costs in a step: one product forward and one backward.

    The two types take turns, after one round that is not counted (the library prepares its kernels in it). No random
    numbers are drawn: a training's are functions of its seed.

    :param tokens: read at once; fewer are taken where the matrix is large, so that it stays within a second.
    :param shape: of the weights, (outputs, inputs).
    """
    import torch

    outputs, inputs = shape
    rows = max(16, min(tokens, _PROBE_PRODUCTS // (outputs * inputs)))
    types: dict[Dtype, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
    given = {
        name: [torch.full(size, 0.5, dtype=kind) for size in ((rows, inputs), (outputs, inputs), (rows, outputs))]
        for name, kind in types.items()
    }
    took: dict[Dtype, list[float]] = {name: [] for name in types}
    with torch.no_grad():
        for _ in range(_PROBE_ROUNDS + 1):
            for name, (read, weights, gradient) in given.items():
                began = time.perf_counter()
                torch.mm(read, weights.T)
                torch.mm(gradient, weights)
                took[name].append(time.perf_counter() - began)
    return {name: median(seconds[1:]) for name, seconds in took.items()}


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for bfloat16."""
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
