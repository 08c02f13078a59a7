"""`edge plan` prints the ledger, what fits and what does not, and loads nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge import footprint
from edge.cli.plan import plan
from edge.errors import UsageError
from edge.memory import Limit, TreeMemory
from tests import fakes

MIB = 2**20


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(footprint, "_parent_private", lambda imported: 15 * MIB)
    monkeypatch.setattr(footprint, "limit", lambda: Limit(4000 * MIB, "free memory of this machine"))
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGE_HOME", str(tmp_path))
    folder = fakes.write_bundle(tmp_path / "bundle")
    (folder / "model" / "genai_config.json").write_text(
        json.dumps({"model": {"decoder": {"hidden_size": 576}, "vocab_size": 49152}})
    )
    manifest = fakes.manifest_of(folder)
    cache = dataclasses.replace(manifest.model.kv_cache, bytes_per_token=46080)
    manifest = dataclasses.replace(
        manifest,
        model=dataclasses.replace(manifest.model, context_tokens=2048, kv_cache=cache),
        memory=dataclasses.replace(manifest.memory, weights_bytes=150 * MIB, embedder_private_bytes=32 * MIB),
    )
    fakes.write_seal(folder, manifest)
    return folder


def run(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        plan, ["--bundle", str(bundle), *arguments], catch_exceptions=False, standalone_mode=False
    )


def plain(bundle: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run(bundle, *arguments, "--json")
    assert done.return_value == code
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_ledger_adds_up(bundle: Path) -> None:
    found = plain(bundle)
    answer = [line for line in found["lines"] if line["part"] == "answer"]
    assert sum(line["bytes"] for line in answer) == found["bytes"]
    assert sum(line["bytes"] for line in found["lines"] if line["part"] == "ingest") == found["ingest_bytes"]
    assert all(line["kept_bytes"] <= line["bytes"] for line in found["lines"])
    assert {"weights", "weights, mapped", "KV cache", "activations", "embedder", "SQLite cache", "vector index",
            "Python, command line", "engine: tokenizer"} <= {line["name"] for line in answer}  # fmt: skip
    assert (found["budget_bytes"], found["budget_source"]) == (4000 * MIB, "free memory of this machine")
    assert (found["context_tokens"], found["refused"]) == (2048, [])
    assert found["cached_prefixes_most"] > 20
    assert not (bundle.parent / "cache").exists()  # nothing was packed


def test_what_does_not_fit_is_named(bundle: Path) -> None:
    found = plain(bundle, "--memory-budget", "310MiB")
    assert 512 <= found["context_tokens"] < 2048
    assert f"more; {found['context_tokens']} fits" in found["refused"][0]
    assert found["context_tokens_beside_ingest"] == 0
    assert found["refused"][1].startswith("with an ingest beside it: ")
    assert found["kept_bytes"] + found["headroom_bytes"] <= found["budget_bytes"]


def test_a_longer_context_and_more_prefixes_can_be_asked_about(bundle: Path) -> None:
    found = plain(bundle, "--context", "1024", "--prefixes", "2")
    assert (found["context_tokens"], found["cached_prefixes"]) == (1024, 2)
    assert [line["bytes"] for line in found["lines"] if line["name"] == "cached prefixes"] == [2 * 1024 * 46080]
    assert plain(bundle, "--context", "8192")["refused"] == ["context 8192 is more than the bundle's own 2048"]


def test_where_nothing_fits_the_ledger_is_printed_all_the_same(bundle: Path) -> None:
    found = plain(bundle, "--memory-budget", "100MiB", code=1)
    assert found["context_tokens"] == 0
    assert found["lines"]
    assert "the weights alone take" in found["refused"][0]


def test_for_a_person(bundle: Path) -> None:
    shown = run(bundle, "--memory-budget", "310MiB").stdout
    assert "budget 310.0 MiB: memory_budget" in shown
    assert "= answering" in shown and "= an ingest beside it" in shown
    assert "does not fit: context 2048 needs" in shown


def test_a_budget_that_is_no_size(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"'lots' is no size.*such as 256MiB"):
        run(bundle, "--memory-budget", "lots")


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (0.85, 4), (1.2, 4)])
def test_measured_is_compared_with_planned(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, factor: float, code: int
) -> None:
    from edge import workload

    planned = sum(line["bytes"] for line in plain(bundle)["lines"])
    peak = TreeMemory(private_bytes=int(planned * factor) - 200 * MIB, file_bytes=200 * MIB)
    monkeypatch.setattr(workload, "measure", lambda box: workload.Measured({"weights": 7 * MIB}, peak, 2048))
    found = plain(bundle, "--measure", code=code)["measured"]
    assert found["within_tolerance"] == (code == 0)
    assert found["planned_bytes"] == planned
    assert found["planned_ratio"] == pytest.approx(1 / factor, abs=0.01)
    assert found["groups"]["weights"]["measured_bytes"] == 7 * MIB
    assert sum(group["planned_bytes"] for group in found["groups"].values()) == planned
    assert ("NOT within" in run(bundle, "--measure").stdout) == (code == 4)
