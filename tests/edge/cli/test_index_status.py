"""`edge index status` says how vectors are searched, and with --check what that finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge.cli.index import index
from edge.store.chunks import Store
from edge.types import Chunk, Document

DIM = 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An index of 400 chunks, and a configuration that searches more than 100 by sign bits."""
    vectors = np.random.default_rng(0).normal(size=(400, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    document = Document("/d/a.txt", "hash", "txt", "A", "", (), "en", "2026-01-01")
    with Store.open(tmp_path / "index.db", create=True, fingerprint="e" * 64, dim=DIM, chunker="c") as store:
        store.replace(document, [Chunk(n, 0, 0, "") for n in range(400)], vectors, [()] * 400)
    (tmp_path / "config.yaml").write_text("retrieve:\n  exact_chunks: 100\n")
    return tmp_path / "index.db"


def run(file: Path, *arguments: str, config: bool = True) -> str:
    options = ["--index", str(file), *(["--config", str(file.with_name("config.yaml"))] if config else [])]
    done = CliRunner().invoke(index, ["status", *arguments, *options], catch_exceptions=False, standalone_mode=False)
    assert done.exception is None
    return done.stdout


def plain(file: Path, *arguments: str, config: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(file, *arguments, "--json", config=config))
    return found


def test_a_check_prints_recall_against_the_exact_search(file: Path) -> None:
    found = plain(file, "--check")
    assert set(found["check"]) == {"queries", "recall_at_10", "search_sec_p50", "exact_sec_p50"}
    assert found["check"]["recall_at_10"] == 1.0  # of 400 chunks all are candidates
    assert found["check"]["queries"] > 100
    again = plain(file, "--check")["check"]
    assert (again["queries"], again["recall_at_10"]) == (found["check"]["queries"], found["check"]["recall_at_10"])


def test_a_person_reads_it_as_a_sentence(file: Path) -> None:
    shown = run(file, "--check")
    assert "recall@10 1.0000 against the exact search" in shown and "ms, exact" in shown
    assert "sign bits kept in memory, at most" in shown


def test_status_says_how_vectors_are_searched(file: Path) -> None:
    by_signs, exactly = plain(file), plain(file, config=False)
    assert (by_signs["search"], exactly["search"]) == ("signs", "exact")
    assert by_signs["resident_bytes"] > 400 * DIM // 8 and exactly["resident_bytes"] == 0
    assert "check" not in by_signs
    assert {"documents", "chunks", "bytes", "embedder", "dim", "chunker", "holes", "unused_bytes"} <= set(exactly)
    assert "all are compared" in run(file, config=False)


def test_an_empty_index_has_nothing_to_check(file: Path) -> None:
    with Store.open(file) as store:
        store.remove(["/d/a.txt"])
    assert plain(file, "--check")["check"] is None
    assert "too few chunks" in run(file, "--check")
