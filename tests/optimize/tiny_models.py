"""Random models of a few hundred kilobytes, one for each architecture, laid out and tokenized as the real ones are.

Shapes are chosen to be unlike SmolLM2's where the architecture allows it: heads wider than hidden / heads, one head of
keys and values, an LM head of its own, a sliding window shorter than the text. Tokenizers are trained on the gate's
text, in the manner of each family: what stands before a text, how spaces are written, which tokens steer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


QWEN3 = CHATML.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)


@dataclass(frozen=True)
class Tiny:
    """How a tiny model of an architecture is made."""

    model_type: str  # transformers' name
    tokens: str = "chatml"  # a key of `TOKENS`
    shape: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """A family's tokenizer and chat template. config.json names `eos` alone as what ends an answer."""

    kind: str  # byte, llama or gemma
    name: str  # transformers' class
    template: str
    special: tuple[str, ...]  # in the order of their ids, from 0; then the vocabulary
    bos: str | None
    eos: str
    end: str  # of a turn
    adds_bos: bool = False  # it puts `bos` before every text


_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TOKENS = {
    "chatml": Tokens("byte", "Qwen2Tokenizer", CHATML, _CHATML_TOKENS, None, "<|endoftext|>", "<|im_end|>"),
    "qwen3": Tokens("byte", "Qwen2Tokenizer", QWEN3, _CHATML_TOKENS, None, "<|im_end|>", "<|im_end|>"),
    "llama3": Tokens(
        "byte", "PreTrainedTokenizerFast", LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", True,
    ),
    "phi3": Tokens(
        "llama", "LlamaTokenizer", PHI3,
        ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
        "<s>", "<|endoftext|>", "<|end|>",
    ),
    "gemma": Tokens(
        "gemma", "GemmaTokenizer", GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>", "<eos>", "<end_of_turn>", True,
    ),
}  # fmt: skip
COMMON = {
    "vocab_size": 520,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
_ROPE = {"rope_type": "default", "rope_theta": 50_000.0}
_SLIDES = ["sliding_attention", "full_attention"]
TINY = {
    "llama": Tiny(
        "llama", "llama3",
        {
            "tie_word_embeddings": False, "head_dim": 32,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
            },
        },
    ),
    "qwen2": Tiny("qwen2", "chatml", {"tie_word_embeddings": True, "rope_parameters": _ROPE}),
    "qwen3": Tiny("qwen3", "qwen3", {"tie_word_embeddings": True, "head_dim": 32, "rope_parameters": _ROPE}),
    "phi3": Tiny(
        "phi3", "phi3",
        {
            "tie_word_embeddings": False, "sliding_window": 64, "original_max_position_embeddings": 512,
            "pad_token_id": 3, "resid_pdrop": 0.0,
        },
    ),
    "gemma": Tiny("gemma", "gemma", {"head_dim": 32, "num_key_value_heads": 1}),
}  # fmt: skip
"""The five of the default tests."""
MORE = {
    "gemma2": Tiny(
        "gemma2", "gemma",
        {
            "head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0, "layer_types": _SLIDES,
        },
    ),
    "gemma3": Tiny(
        "gemma3_text", "gemma",
        {
            "head_dim": 32, "num_key_value_heads": 1, "sliding_window": 64, "query_pre_attn_scalar": 16,
            "layer_types": _SLIDES,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3-long": Tiny(
        "phi3", "phi3",
        {
            "tie_word_embeddings": True, "sliding_window": None, "original_max_position_embeddings": 256,
            "pad_token_id": 3,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 256,
            },
        },
    ),
    "phi": Tiny("phi", "chatml", {"tie_word_embeddings": False, "num_attention_heads": 2, "num_key_value_heads": 2}),
    "mistral": Tiny("mistral", "llama3", {"head_dim": 32, "sliding_window": 64, "rope_parameters": _ROPE}),
    "smollm3": Tiny("smollm3", "qwen3", {"tie_word_embeddings": True, "no_rope_layers": [1, 0]}),
    "granite": Tiny(
        "granite", "chatml",
        {
            "tie_word_embeddings": True, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "nemotron": Tiny("nemotron", "chatml", {"tie_word_embeddings": False, "head_dim": 32}),
    "ernie": Tiny("ernie4_5", "chatml", {"tie_word_embeddings": True}),
    "hunyuan": Tiny("hunyuan_v1_dense", "chatml", {"tie_word_embeddings": True, "head_dim": 32}),
}  # fmt: skip
"""Those of `scripts/qualify architectures` besides."""


def make(name: str, folder: Path) -> Path:
    """Write the model, its tokenizer and its chat template into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tiny = {**TINY, **MORE}[name]
    tokens = TOKENS[tiny.tokens]
    tokenizer = _tokenizer(tokens.kind, tokens.special)
    if tokens.adds_bos and tokens.bos:
        from tokenizers.processors import TemplateProcessing

        begins = [(tokens.bos, tokens.special.index(tokens.bos))]
        pair = f"{tokens.bos} $A {tokens.bos} $B"
        tokenizer.post_processor = TemplateProcessing(single=f"{tokens.bos} $A", pair=pair, special_tokens=begins)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=tokens.bos, eos_token=tokens.eos, pad_token=tokens.special[0],
        unk_token="<unk>" if "<unk>" in tokens.special else None,
    )  # fmt: skip
    wrapped.chat_template = tokens.template
    wrapped.save_pretrained(folder)
    said = folder / "tokenizer_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"tokenizer_class": tokens.name}, indent=2))
    torch.manual_seed(7)
    ends = {"eos_token_id": tokens.special.index(tokens.eos)}
    ends["bos_token_id"] = tokens.special.index(tokens.bos) if tokens.bos else None
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(tiny.model_type, **{**COMMON, **ends, **tiny.shape}))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms that are all zeros or ones would hide that they are left out
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@cache
def _trained(kind: str, special: tuple[str, ...]) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    from optimize.evaluate import gate_text

    text = gate_text()
    if kind == "byte":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet, names, letters = pre_tokenizers.ByteLevel.alphabet(), list(special), 256
    else:  # as SentencePiece does it: a space is a letter, a rare letter falls back to its bytes, words have one script
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        spaces = normalizers.Replace(" ", "▁")
        tokenizer.normalizer = spaces
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex(r"[^\w▁]|\d"), "isolated")]
        )
        alphabet, letters, names = [], 72, [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
        text = text.replace("\n", " ")
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=names, initial_alphabet=alphabet, show_progress=False, limit_alphabet=letters
    )
    tokenizer.train_from_iterator([text], trainer)
    if kind != "byte":
        plain = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if kind == "llama":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
            plain.append(decoders.Strip(" ", 1, 0))
        tokenizer.decoder = decoders.Sequence(plain)
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] in special]
    if kind != "byte":
        said["pre_tokenizer"] = None
    return json.dumps(said)


def _tokenizer(kind: str, special: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained(kind, special))
