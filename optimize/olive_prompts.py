"""Lets Olive read ready token ids. Olive loads this file by its path, in the child; nothing here imports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from olive.data.registry import Registry


class TokenRows(torch.utils.data.Dataset[Any]):
    """Each item: ({input_ids, attention_mask}: int64 (time,), labels: int64 (time,))."""

    def __init__(self, rows: list[list[int]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        ids = torch.tensor(self._rows[index])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids


@Registry.register_dataset("edge_token_rows")
def token_rows(*, path: str, **_: Any) -> TokenRows:
    """The rows of a JSON file: a list of lists of token ids."""
    return TokenRows(json.loads(Path(path).read_text(encoding="utf-8")))


@Registry.register_pre_process("edge_as_it_is")
def prepared(dataset: Any, **_: Any) -> Any:
    """Nothing to prepare."""
    return dataset


@Registry.register_post_process("edge_as_it_comes")
def finished(output: Any, **_: Any) -> Any:
    """Nothing to do with what the model gave."""
    return output
