"""How many tokens an example takes: the prompt that `edge ask` sends, and the answer with the token that ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bundle import MANIFEST, load
from edge.errors import DatasetError
from optimize.dataset.examples import Sample

DEFAULT_CONTEXT_TOKENS = 2048  # of answer.context_tokens in the configuration of `edge`


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of one sample."""

    prompt: int  # chat template included
    completion: int  # with the one that ends the turn

    @property
    def total(self) -> int:
        return self.prompt + self.completion


Measure = Callable[[Sequence[Sample]], list[Length]]


def measure_with(folder: Path) -> tuple[Measure, int]:
    """What counts tokens, and the context length: by a bundle's tokenizer and context, or by those of a Hugging Face
    folder, whose answers `edge` gives in `DEFAULT_CONTEXT_TOKENS`.

    :raises DatasetError: there is no tokenizer with a chat template in the folder.
    :raises BundleError: it is a bundle, and not in order.
    """
    context = DEFAULT_CONTEXT_TOKENS
    if (folder / MANIFEST).is_file():
        model = load(folder).manifest.model
        folder, context = folder / model.path, min(context, model.context_tokens)
    if not (folder / "tokenizer.json").is_file():
        raise DatasetError(f"{folder}: no tokenizer.json: name a bundle, or the folder of a Hugging Face model")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DatasetError(f"counting tokens needs transformers ({error}): pip install 'edge-slm[optimize]'") from None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder}: the tokenizer cannot be read: {error}") from None
    if not tokenizer.chat_template:
        raise DatasetError(f"{folder}: no chat template; take an instruction-tuned model")

    def measure(samples: Sequence[Sample]) -> list[Length]:
        prompts = [_rendered(tokenizer, sample) for sample in samples]
        answers = [sample.completion for sample in samples]
        counted = zip(_counts(tokenizer, prompts), _counts(tokenizer, answers), strict=True)
        return [Length(prompt, answer + 1) for prompt, answer in counted]

    return measure, context


def _rendered(tokenizer: Any, sample: Sample) -> str:
    turns = [{"role": turn.role, "content": turn.content} for turn in sample.prompt]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    if not texts:
        return []
    # Not cut, and not warned about: those too long are what is looked for.
    encoded = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]
