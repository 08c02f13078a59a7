"""How a model is talked to: its chat template, the token that ends its turn, the tokens that steer it.

Families differ: Gemma's template refuses a system turn, Qwen 3's asks to think aloud first, and in some folders the
token that ends a turn is no stop token. `settle` makes the parent's folder say it all in one way, so that training and
the box see the same text. `check_tokens` makes sure that the box reads it as the reference does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic

TEMPLATE = "chat_template.jinja"
PRESET = {"enable_thinking": "false", "date_string": "'26 Jul 2024'"}
"""Jinja variables that a template may ask for, with the values they always have: answers are short, and begin at once;
the same question gives the same prompt on any day."""

_FOLD = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- if messages | length > 1 -%}"
    "{%- set messages = [{'role': messages[1]['role'], 'content': messages[0]['content'] + '\\n\\n' + "
    "messages[1]['content']}] + messages[2:] -%}"
    "{%- else -%}{%- set messages = [{'role': 'user', 'content': messages[0]['content']}] -%}{%- endif -%}"
    "{%- endif -%}"
)
"""Puts a system turn before the user's first words: what Gemma's authors advise."""
_SAMPLES = (
    (("user", "What is it?"),),
    (("system", "Be brief."), ("user", "[1] Pumps > P-10\nIt weighs  3.5 kg – «net».\n\nQuestion: How much, in kg?")),
    (("system", "Be brief."), ("user", "Über 42 °C?\n"), ("assistant", "Ten seconds [1]."), ("user", " 東京? 😀")),
)


def settle(folder: Path, tokenizer: Any) -> None:
    """Let the folder's template take a system turn, and its generation_config.json name what ends a turn.

    A folder that does so already is left as it is, to the last byte; so is one without a chat template.

    :param tokenizer: transformers' tokenizer of the folder.
    :raises BuildError: the template cannot be rendered.
    """
    path = folder / TEMPLATE
    if not path.is_file():
        return
    template = path.read_text(encoding="utf-8")
    preset = [f"{{%- set {name} = {value} -%}}" for name, value in PRESET.items() if name in template]
    settled = "".join([*preset, template])
    if not _takes_system(tokenizer, settled):
        settled = _FOLD + settled
    if settled != template:
        if not _takes_system(tokenizer, settled):
            raise BuildError("the model's chat template takes no system turn, nor the same words in the user's turn")
        write_atomic(path, settled)
        tokenizer.chat_template = settled
    _settle_end(folder, tokenizer, settled)


def special_tokens(folder: Path) -> tuple[str, ...]:
    """The tokens that steer the model, as written in text: those marked so, and those that the chat template writes."""
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    path = folder / TEMPLATE
    template = path.read_text(encoding="utf-8") if path.is_file() else ""
    written = (token["content"] for token in added if token["special"] or token["content"] in template)
    return tuple(content for content in written if content.strip())  # Gemma has one of line breaks


def check_tokens(parent: Path, built: Path) -> None:
    """Check that the runtime renders and reads conversations as the parent's own tokenizer does.

    :param built: a folder for onnxruntime-genai.
    :raises BuildError: it does not; shows the first difference.
    """
    import onnxruntime_genai as og
    from transformers import AutoTokenizer

    reference: Any = AutoTokenizer.from_pretrained(parent)
    template = (parent / TEMPLATE).read_text(encoding="utf-8")
    ours = og.Tokenizer(og.Config(str(built)))
    for sample in _SAMPLES:
        turns = _turns(sample)
        wanted = _render(reference, template, turns)
        got = str(ours.apply_chat_template(json.dumps(turns), template_str=template, add_generation_prompt=True))
        if got != wanted:
            raise BuildError(f"the runtime renders the chat template otherwise than it is meant: {_apart(wanted, got)}")
        tokens = reference.encode(wanted, add_special_tokens=False)
        read = [int(token) for token in ours.encode(wanted)]
        if read != tokens:
            at = next((i for i, pair in enumerate(zip(tokens, read, strict=False)) if pair[0] != pair[1]), len(tokens))
            raise BuildError(
                f"the runtime reads text as other tokens than this model was trained with: from token {at} on "
                f"{read[at : at + 5]}, not {tokens[at : at + 5]}, of {wanted!r}. Its kind of tokenizer does not run on "
                "the box"
            )


def _takes_system(tokenizer: Any, template: str) -> bool:
    from jinja2 import TemplateError

    wanted = "Be brief."
    try:
        return wanted in _render(tokenizer, template, _turns((("system", wanted), ("user", "What is it?"))))
    except TemplateError:
        return False


def _settle_end(folder: Path, tokenizer: Any, template: str) -> None:
    """Add the token behind an answer to the stop tokens, where it is a steering token and none of them."""
    answer, path = "answer", folder / "generation_config.json"
    text = _render(tokenizer, template, _turns((("user", "question"), ("assistant", answer))), generate=False)
    after = tokenizer.encode(text[text.rindex(answer) + len(answer) :], add_special_tokens=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    stops = ends if isinstance(ends, list) else [ends] if ends is not None else []
    steering = set(special_tokens(folder))
    if not after or after[0] in stops or tokenizer.convert_ids_to_tokens(after[0]) not in steering:
        return
    generation["eos_token_id"] = [*stops, after[0]]
    write_atomic(path, json.dumps(generation, indent=2, sort_keys=True) + "\n")


def _render(tokenizer: Any, template: str, turns: Sequence[dict[str, str]], *, generate: bool = True) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(turns), chat_template=template, tokenize=False, add_generation_prompt=generate
        )
    )


def _turns(sample: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in sample]


def _apart(wanted: str, got: str) -> str:
    at = next((i for i, pair in enumerate(zip(wanted, got, strict=False)) if pair[0] != pair[1]), len(wanted))
    return f"{got[at : at + 40]!r} in place of {wanted[at : at + 40]!r}, after {wanted[:at][-40:]!r}"
