"""A corpus of small files, and the figures of a search over it: the same path as the long runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from edge.store.chunks import Store
from edge.store.upkeep import problems

pytestmark = [pytest.mark.model, pytest.mark.process]

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("valve", "pump", "sensor", "log", "reading", "gateway", "broker", "battery", "cable", "antenna", "meter")


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    drawn = random.Random(1)
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(120):
        sentences = (" ".join(drawn.choices(WORDS, k=12)).capitalize() + "." for _ in range(8))
        (folder / f"{number}.txt").write_text(f"Text {number}\n\n" + " ".join(sentences))
    return folder


def test_a_corpus_is_made_once_and_measured(documents: Path, default_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    make = ("make_corpus.py", "--folder", documents, "--out", out, "--bundle", default_bundle, "--chunks")
    run(*make, "60")
    with Store.open(out / "index.db") as store:
        first = store.known()
    done = run(*make, "100")  # goes on where it was
    assert done.stdout.strip() == str(out)
    questions = (out / "queries.txt").read_text().splitlines()
    with Store.open(out / "index.db") as store:
        texts = [document.text for source in store.known() if (document := store.document(source))]
        assert first.items() <= store.known().items() and len(texts) < 120
        assert problems(store) == []
    assert questions and not any(question in text for question in questions for text in texts)
    assert json.loads((out / "corpus.json").read_text())["chunks"] >= 100

    shown = run("bench_vectors.py", out, "--bundle", default_bundle, "--chunks", "50", "--chunks", "400", "--json")
    result = json.loads(shown.stdout)
    small, large = result["search"]
    assert (small["chunks"], small["real_chunks"]) == (50, 50)
    assert large["chunks"] == 400 and 100 <= large["real_chunks"] < 400
    assert small["recall_at_10"] == 1.0 and large["recall_at_10"] > 0.9
    assert large["search_sec_p50"] > 0 and large["private_bytes"] >= 0
    assert result["retrieval"]["retrieve_sec_p50"] >= result["retrieval"]["candidates_sec_p50"] > 0
