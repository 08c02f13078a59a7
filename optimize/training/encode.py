"""Samples to token ids, as serving has them: the prompt encoded alone, then what the model must generate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.engine.base import Message
from edge.errors import BuildError
from edge.prompt import defuse
from optimize.dataset.examples import Sample


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one sample."""

    id: str
    prompt: tuple[int, ...]  # ends where the answer begins
    completion: tuple[int, ...]  # the answer, then the token that ends the turn

    @property
    def tokens(self) -> int:
        """What a model reads of it: the last token of the completion is predicted, never read."""
        return len(self.prompt) + len(self.completion) - 1


class Encoder:
    """The tokenizer and chat template of a parent folder.

    :raises BuildError: the folder has no chat template, or no token that ends a turn.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        self._special = [token["content"] for token in added if token["special"]]
        if not self._tokenizer.chat_template:
            raise BuildError(f"{folder}: no chat template; take an instruction-tuned model")
        self._end = self._end_of_turn(folder)

    def encode(self, sample: Sample) -> Encoded:
        """Token ids of a sample; control tokens in its text are broken up, as `edge ask` does with documents."""
        prompt = [Message(turn.role, defuse(turn.content, self._special)) for turn in sample.prompt]
        completion = self._ids(defuse(sample.completion, self._special))
        return Encoded(sample.id, tuple(self._ids(self.render(prompt))), (*completion, self._end))

    def render(self, messages: Sequence[Message], generate: bool = True) -> str:
        """The conversation as text, up to where the answer begins."""
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate))

    def _ids(self, text: str) -> list[int]:
        # the template writes the special tokens that a prompt begins with
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _end_of_turn(self, folder: Path) -> int:
        """The stop token that the template puts behind an answer."""
        stops: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            if (folder / name).is_file():
                given = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
                stops |= set(given) if isinstance(given, list) else {given}
        answer = "answer"
        text = self.render([Message("user", "question"), Message("assistant", answer)], generate=False)
        after = self._ids(text[text.rindex(answer) + len(answer) :])
        for token in after:
            if token in stops:
                return token
        raise BuildError(
            f"{folder}: the chat template ends an answer with none of the stop tokens {sorted(stops - {None})}; "
            "set eos_token_id in its generation_config.json to the token that ends a turn"
        )


def encode_all(samples: Sequence[Sample], encoder: Encoder, max_tokens: int) -> tuple[list[Encoded], list[str]]:
    """Samples as token ids, and the ids of those that take more than `max_tokens` tokens and were left out.

    :raises BuildError: there is none, or none is short enough.
    """
    if not samples:
        raise BuildError("there are no examples to train on: name files that hold some under finetune.data.train")
    encoded = [encoder.encode(sample) for sample in samples]
    short = [one for one in encoded if one.tokens <= max_tokens]
    if not short:
        least = min(one.tokens for one in encoded)
        raise BuildError(
            f"all {len(encoded)} examples are longer than finetune.max_tokens: {max_tokens}; the shortest takes "
            f"{least} tokens. Raise it, or cut the passages"
        )
    return short, [one.id for one in encoded if one.tokens > max_tokens]
