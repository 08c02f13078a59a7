"""What the ranges of activations are measured on: conversations as the model reads them when it answers.

Made of the project's own texts, which the gate's text is not among, with the model's chat template: half of them the
question alone, half with passages before it. The tokens that begin a conversation matter most, because models keep
their largest activations there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optimize import export

TEXT = Path(__file__).parents[1] / "data" / "embedder" / "sentences.txt"
_ROW_TOKENS = 256
_PASSAGES = 8  # sentences before a question, in rows that have them


def calibration(parent: Path, tokens: int) -> dict[str, Any]:
    """Rows of token ids, about `tokens` of them in all, and the shape of keys and values, as qnn_data.py reads it.

    :param parent: the fp32 folder.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(parent)
    tokenizer.chat_template = (parent / export.CHAT_TEMPLATE).read_text(encoding="utf-8")
    lines = [line for line in TEXT.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows: list[list[int]] = []
    count = place = 0
    while count < tokens:
        some = [lines[(place + index) % len(lines)] for index in range(2 * _PASSAGES + 2)]
        place = (place + len(some)) % len(lines)
        passages = "\n".join(f"[{n}] {line}" for n, line in enumerate(some[:_PASSAGES], 1))
        question = some[-1] if len(rows) % 2 else f"{passages}\n\n{some[-1]}"
        turns = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(asked + " ".join(some[_PASSAGES:-1]), add_special_tokens=False)["input_ids"]
        rows.append([int(token) for token in ids[:_ROW_TOKENS]])
        count += len(rows[-1])
    config = json.loads((parent / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    return {
        "rows": rows,
        "layers": config["num_hidden_layers"],
        "heads": config.get("num_key_value_heads", heads),
        "size": config.get("head_dim") or config["hidden_size"] // heads,
    }
