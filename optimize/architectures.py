"""Which kinds of language models can be built, and what about their configuration the model builder has to be told.

onnxruntime-genai's builder knows an architecture by the name in config.json, and says so late, after the weights were
read: `check` says it at once. transformers 5 writes some configurations otherwise than the builder reads them: `fit`
bridges that, in the builder's process, on its copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.errors import BuildError

KNOWN = (
    "Ernie4_5ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM",
    "HunYuanDenseV1ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "NemotronForCausalLM", "Phi3ForCausalLM",
    "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "SmolLM3ForCausalLM",
)  # fmt: skip
"""Decoders of text that onnxruntime-genai 0.18's builder writes for the CPU; docs/targets.md says which of them ran."""

NOT_HERE = {
    "GraniteMoeHybridForCausalLM": "state",
    "Lfm2ForCausalLM": "state",
    "Lfm2MoeForCausalLM": "state",
    "OlmoForCausalLM": "wrong",
    "ChatGLMForConditionalGeneration": "code",
    "ChatGLMModel": "code",
    "InternLM2ForCausalLM": "code",
    "Phi3SmallForCausalLM": "code",
    "VideoChatFlashQwenForCausalLM": "code",
    "Phi3VForCausalLM": "code",
    "Phi4MMForCausalLM": "code",
    "GptOssForCausalLM": "size",
    "PhiMoEForCausalLM": "size",
    "Gemma3ForConditionalGeneration": "media",
    "Gemma4ForConditionalGeneration": "media",
    "Gemma4UnifiedForConditionalGeneration": "media",
    "Lfm2AudioForConditionalGeneration": "media",
    "Lfm2VlForConditionalGeneration": "media",
    "Mistral3ForConditionalGeneration": "media",
    "Qwen2_5_VLForConditionalGeneration": "media",
    "Qwen3VLForConditionalGeneration": "media",
    "Qwen3_5ForConditionalGeneration": "media",
    "Qwen3_5MoeForConditionalGeneration": "media",
    "WhisperForConditionalGeneration": "media",
}
"""What the builder knows beyond that, and why it is refused: a word of `_WHY`."""

_WHY = {
    "unknown": "onnxruntime-genai's model builder does not know it",
    "state": "it keeps a state that cannot be rewound, and the box takes up prompts where they were left",
    "code": "it is loaded by code that its authors ship, which is never run here",
    "wrong": "onnxruntime-genai 0.18's model builder writes another model than it is (its norms)",
    "size": "its experts are built for GPUs only",
    "media": "it reads more than text; take the text model of the family, one whose architecture ends in ForCausalLM",
}
_SLIDING, _FULL = "sliding_attention", "full_attention"


def check(config: Mapping[str, Any], what: str) -> None:
    """Refuse a model that cannot be built.

    :param config: its config.json.
    :param what: names it in the error.
    :raises BuildError: says why, and what can be built.
    """
    named = config.get("architectures") or ["none"]
    architecture = str(named[0]) if isinstance(named, list) else str(named)
    if architecture in KNOWN:
        _check_rope(config, architecture, what)
        return
    why = _WHY[NOT_HERE.get(architecture, "unknown")]
    raise BuildError(
        f"{what} has the architecture {architecture}, which cannot be built: {why}. "
        f"Those that can: {', '.join(sorted(KNOWN))}"
    )


def fit(config: Any) -> None:
    """Put a transformers configuration in the form that the builder reads, in place.

    - A model whose every layer looks back over a window only (Phi-3, Mistral) does not list its layers; the builder
      asks the list, and would write none of them with a window.
    - Gemma 3 has rotary embeddings of two kinds, in one table each; the builder reads the older form.
    - The kind of a rotary embedding is called `rope_type`; for one of them (longrope) the builder asks for `type`.
    - What keeps a norm from dividing by zero is called otherwise by some (Phi, Nemotron); the builder knows one name,
      and takes a tenth of theirs where it is not there.
    """
    if not hasattr(config, "rms_norm_eps"):
        named = [value for name in ("norm_eps", "layer_norm_eps") if (value := getattr(config, name, None))]
        if named:
            config.rms_norm_eps = named[0]
    if getattr(config, "sliding_window", None) and getattr(config, "layer_types", None) is None:
        config.layer_types = [_SLIDING] * config.num_hidden_layers
    nested = getattr(config, "rope_parameters", None)
    if isinstance(nested, dict) and _FULL in nested:
        config.rope_local_base_freq = nested[_SLIDING]["rope_theta"]
        config.rope_theta = nested[_FULL]["rope_theta"]
        config.rope_parameters = dict(nested[_FULL])
    elif isinstance(nested, dict) and "rope_type" in nested:
        nested.setdefault("type", nested["rope_type"])


def fit_builder(builder: Any) -> None:
    """Mend the module `onnxruntime_genai.models.builder`, in place.

    Some layers of SmolLM 3 have no rotary embedding; version 0.18 gives them one outside of the attention instead, and
    then fails for want of positions.
    """

    class SmolLM3(builder.SmolLM3Model):  # type: ignore[misc]
        def make_attention_qk_rope(self, layer_id: int, **kwargs: Any) -> Any:
            if not self.attention_attrs["use_rope_in_attn"]:
                return "", ""
            return super().make_attention_qk_rope(layer_id, **kwargs)

    builder.SmolLM3Model = SmolLM3


def _check_rope(config: Mapping[str, Any], architecture: str, what: str) -> None:
    nested = config.get("rope_parameters") or {}
    scaled = isinstance(nested, dict) and nested.get(_FULL, {}).get("rope_type", "default") != "default"
    if architecture == "Gemma3ForCausalLM" and (scaled or config.get("rope_scaling")):
        raise BuildError(
            f"{what} stretches the positions of some layers (rope_scaling), and onnxruntime-genai 0.18's builder would "
            "do so to all of them: take a Gemma 3 without (270m, 1b)"
        )
