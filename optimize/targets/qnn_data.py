"""Lets Olive calibrate on ready token ids. Olive loads this file by its path, in the child; nothing here imports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from olive.data.registry import Registry


class StaticRows(torch.utils.data.Dataset[Any]):
    """Each item: (inputs of a graph that is told lengths and not a mask, keys and values empty; labels)."""

    def __init__(self, rows: list[list[int]], layers: int, heads: int, size: int) -> None:
        self._rows, self._shape = rows, (1, heads, 0, size)
        self._names = [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        ids = torch.tensor([self._rows[index]])
        length = ids.shape[1]
        inputs = {
            "input_ids": ids,  # int64 (1, time)
            "past_seq_len": torch.tensor([[length - 1]], dtype=torch.int32),
            "total_seq_len": torch.tensor(length, dtype=torch.int32),
        }
        return inputs | {name: torch.zeros(self._shape) for name in self._names}, ids


@Registry.register_dataset("edge_static_rows")
def static_rows(*, path: str, **_: Any) -> StaticRows:
    """Rows of a JSON file: {rows: [[token id]], layers, heads, size}."""
    return StaticRows(**json.loads(Path(path).read_text(encoding="utf-8")))


@Registry.register_pre_process("edge_static_as_it_is")
def prepared(dataset: Any, **_: Any) -> Any:
    """Nothing to prepare."""
    return dataset


@Registry.register_post_process("edge_static_as_it_comes")
def finished(output: Any, **_: Any) -> Any:
    """Nothing to do with what the model gave."""
    return output
