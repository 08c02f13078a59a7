"""The shipped settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.bench.config import BenchConfig
from edge.config import load, parse, to_plain
from edge.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "bench"


def keys_of(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: keys_of(value) if isinstance(value, dict) else None for key, value in plain.items()}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_settings_are_whole_and_load(path: Path) -> None:
    load(BenchConfig, path)
    keys = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert all("#" in line for line in keys if not line.endswith(":"))
    assert keys_of(yaml.safe_load(path.read_text())) == keys_of(to_plain(BenchConfig()))


def test_the_default_file_is_the_default() -> None:
    assert load(BenchConfig, FOLDER / "default.yaml") == BenchConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repetitions: 0", "repetitions must be more than 0"),
        ("warmup: -1", "warmup must be 0 or more"),
        ("latency: {prompt_tokens: []}", "at least one length"),
        ("latency: {prompt_tokens: [64, 64]}", "twice"),
        ("latency: {prompt_tokens: [0]}", "1 or more"),
        ("peer: {formats: [Q8_0, Q8_0]}", "names one twice"),
        ("retrieval: {index_chunks: [5]}", "top_k or more"),
        ("latencies: {}", "unknown key"),
    ],
)
def test_settings_that_do_not_hold(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(BenchConfig, text, "bench.yaml")
