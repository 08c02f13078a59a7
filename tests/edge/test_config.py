"""Configuration: the shipped file is true, and every kind of mistake names its line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from edge.config import EdgeConfig, load, parse, to_plain, to_yaml
from edge.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "edge" / "default.yaml"


def test_shipped_configuration_states_every_key_with_its_default() -> None:
    assert load(EdgeConfig, SHIPPED) == EdgeConfig()
    assert yaml.safe_load(SHIPPED.read_text()) == to_plain(EdgeConfig())


def test_every_key_of_the_shipped_configuration_is_commented() -> None:
    lines = SHIPPED.read_text().splitlines()
    keys = [line for line in lines if line.strip() and not line.lstrip().startswith("#") and not line.endswith(":")]
    assert [line for line in keys if "#" not in line] == []


def test_round_trip() -> None:
    config = parse(EdgeConfig, "threads: 3\nretrieve: {top_k: 2, floor: 0.25}\n", "x")
    assert config.threads == 3
    assert config.retrieve.floor == 0.25
    assert parse(EdgeConfig, to_yaml(config), "y") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("thread: 2", "x.yaml, line 1: unknown key 'thread'; known here: threads"),
        ("threads: 2\nretrieve:\n  topk: 3", "x.yaml, line 3: unknown key 'retrieve.topk'"),
        ("retrieve:\n  top_k: many", "line 2: retrieve.top_k is 'many'; it must be of type int"),
        ("threads: true", "threads is True; it must be of type int"),
        ("threads: 1\nthreads: 2", "line 2: threads stands twice"),
        ("retrieve: 3", "line 1: retrieve must be a mapping with the keys top_k"),
        ("- 1", "the file must be a mapping"),
        ("ingest:\n  chunk:\n    max_tokens: 3", "line 3: ingest.chunk: max_tokens must be >= 16"),
        ("threads: [1", "not YAML"),
        ("threads: !foo 4", "which is no plain YAML value"),
        ("threads: 2026-13-45", "which is no plain YAML value"),
        ("threads: -1", "threads must be 0 or more"),
        ("retrieve: {floor: .nan}", "floor must be from 0 to 1"),
        ("retrieve: {top_k: 0}", "top_k must be more than 0"),
        ("answer: {max_tokens: 4000}", "max_tokens must be less than context_tokens"),
        ("threads: [1]", "threads must be a single value"),
    ],
)
def test_mistakes_name_file_line_and_key(content: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(EdgeConfig, content, "x.yaml")
    assert message in str(caught.value)


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(EdgeConfig, tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"threads: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(EdgeConfig, tmp_path / "latin.yaml")


@dataclass(frozen=True)
class Wheel:
    wheel: str


@dataclass(frozen=True)
class Folder:
    folder: Path


@dataclass(frozen=True)
class Shapes:
    source: Wheel | Folder
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    limit: float | None = None


def test_unions_literals_tuples_and_mappings() -> None:
    shapes = parse(Shapes, "source: {folder: x}\nkind: b\nnames: [p, q]\nsizes: {r: 1}\nlimit: null\n", "s")
    assert shapes == Shapes(Folder(Path("x")), "b", ("p", "q"), {"r": 1}, None)
    assert parse(Shapes, "source: {wheel: w}\nlimit: 2\n", "s").limit == 2.0
    with pytest.raises(ConfigError, match="kind is 'c'; it must be one of 'a', 'b'"):
        parse(Shapes, "source: {wheel: w}\nkind: c\n", "s")
    with pytest.raises(ConfigError, match="source is missing"):
        parse(Shapes, "kind: a\n", "s")
