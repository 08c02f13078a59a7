"""A request names an adapter of the bundle, or none: what the manifest says, who is refused, and what it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from edge import bundle, footprint
from edge.answer import answer, answer_closed_book
from edge.box import Box
from edge.budget import Part, Use, lines_of
from edge.bundle import MANIFEST, AdapterEntry
from edge.cli.ask import ask
from edge.cli.chat import chat
from edge.config import EdgeConfig
from edge.engine.base import EngineOptions, Sampling
from edge.engine.worker import WorkerEngine
from edge.errors import BundleError, UsageError
from edge.reading import Tuning
from edge.types import Chunk, Hit
from tests import fakes
from tests.edge.scripted import Scripted

TEXT = "The gateway has a reset button. Hold the reset button for 12 seconds for a factory reset."
HIT = Hit(1, "/1.txt", "", "txt", "en", Chunk(0, 0, len(TEXT), TEXT), 0.5, 0.5, 0.5, 0.5, 0.9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with the adapters legal, which cites, and plain."""
    made = fakes.write_bundle(tmp_path / "bundle")
    (made / "model" / "genai_config.json").write_text(
        json.dumps({"model": {"decoder": {"hidden_size": 576}, "vocab_size": 49152}})
    )
    (made / "model" / "adapters").mkdir()
    for name in ("legal", "plain"):
        (made / "model" / "adapters" / f"{name}.onnx_adapter").write_bytes(name.encode() * 1000)
    seal(made)
    return made


def seal(folder: Path, **changes: Any) -> None:
    """Write the manifest, with `changes` to each adapter."""
    manifest = fakes.manifest_of(folder)
    entries = []
    for name, answers in (("legal", "marked"), ("plain", "free")):
        path = f"model/adapters/{name}.onnx_adapter"
        file = manifest.files[path]
        entry = AdapterEntry(name, path, file.sha256, file.bytes, 16, "4" * 64, answers, ("en",))  # type: ignore[arg-type]
        entries.append(dataclasses.replace(entry, **changes))
    model = dataclasses.replace(manifest.model, adapters=tuple(entries))
    text = bundle.to_yaml(dataclasses.replace(manifest, model=model))
    rewrite(folder, text)


def rewrite(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    (folder / bundle.SIDECAR).write_bytes(bundle._sidecar(hashlib.sha256(text.encode()).hexdigest()))


def test_manifest_names_them_and_old_ones_have_none(folder: Path) -> None:
    entries = bundle.verify(folder).manifest.model.adapters
    assert [(entry.name, entry.answers, entry.rank) for entry in entries] == [
        ("legal", "marked", 16),
        ("plain", "free", 16),
    ]
    plain = yaml.safe_load((folder / MANIFEST).read_text())
    del plain["model"]["adapters"]
    rewrite(folder, yaml.safe_dump(plain))
    assert bundle.load(folder).manifest.model.adapters == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "model/adapters/none.onnx_adapter"}, "none.onnx_adapter is not among its files"),
        ({"path": "../plain.onnx_adapter"}, "is not among its files"),
        ({"sha256": "5" * 64}, "adapter legal and the file .* do not agree"),
        ({"bytes": 1}, "adapter legal and the file .* do not agree"),
        ({"name": "same"}, "two adapters have one name"),
    ],
)
def test_entries_agree_with_the_files(folder: Path, changes: dict[str, Any], message: str) -> None:
    seal(folder, **changes)
    with pytest.raises(BundleError, match=message):
        bundle.load(folder)


def test_damaged_adapter_is_found_by_verify(folder: Path) -> None:
    path = folder / "model" / "adapters" / "plain.onnx_adapter"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(BundleError, match=r"plain\.onnx_adapter: damaged or changed"):
        bundle.verify(folder)


def test_unknown_one_is_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    with Box(folder, tmp_path / "none.db", EdgeConfig()) as box:
        assert [box.tuning(name) for name in (None, "legal", "plain")] == [None, Tuning(("en",)), None]
        with pytest.raises(UsageError, match="no adapter 'legl': it has legal, plain"):
            box.ask("Who?", adapter="legl")
        assert "engine" not in vars(box)
    engine = WorkerEngine(folder / "model", "", (), EngineOptions(64))
    with pytest.raises(UsageError, match="no adapter 'legal': it has none"):
        engine.start([1, 2], Sampling(), adapter="legal")
    assert engine.pid is None


@pytest.mark.parametrize("command", [ask, chat], ids=["ask", "chat"])
def test_commands_name_those_there_are(command: Any, folder: Path, tmp_path: Path) -> None:
    batch = tmp_path / "batch.jsonl"
    batch.write_text('{"id": 1, "question": "Who?"}\n')
    given = [["Who?"], ["--batch", str(batch)]] if command is ask else [[]]
    for arguments in given:
        options = [*arguments, "--adapter", "x", "--bundle", str(folder), "--index", str(tmp_path / "none.db")]
        with pytest.raises(UsageError, match="it has legal, plain"):
            CliRunner().invoke(command, options, catch_exceptions=False, standalone_mode=False, input="Who?\n")


def test_answer_passes_it_on_to_the_engine() -> None:
    engine = Scripted("Hold it for 12 seconds.")
    config = EdgeConfig()
    answer("How long?", retrieve=lambda _: [HIT], engine=engine, config=config, adapter="legal")
    answer_closed_book("How long?", engine=engine, config=config, adapter="plain")
    answer("How long?", retrieve=lambda _: [HIT], engine=engine, config=config)
    assert engine.adapters == ["legal", "plain", None]


def test_ledger_counts_their_files(folder: Path, tmp_path: Path) -> None:
    with Box(folder, tmp_path / "none.db", EdgeConfig()) as box:
        parts = footprint.parts_of(box.bundle, box.config, threads=2, prepared=None)
    line = {line.name: line for line in lines_of(parts, Use(128))}["adapters, mapped"]
    assert (line.kind, line.bytes, line.kept, line.group) == ("mapped", 10_000, 5000, "files of the model")
    bare = dataclasses.replace(parts, adapters=Part(0))
    assert not [line.name for line in lines_of(bare, Use(128)) if "adapters" in line.name]
