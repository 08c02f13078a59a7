"""The measuring scripts, on a file of a few questions and the real default bundle: the same path as the long runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTEXTS = {
    "The lighthouse at Skagen was built in 1858. It is 46 metres high and has 210 steps.": [
        ("When was the lighthouse at Skagen built?", "1858"),
        ("How high is the lighthouse?", "46 metres"),
    ],
    "The bakery opens at five in the morning. Its rye bread rises for eleven hours.": [
        ("For how long does the rye bread rise?", "eleven hours"),
    ],
    "Copper conducts heat well. Its melting point is 1085 degrees Celsius.": [
        ("What is the melting point of copper?", "1085 degrees Celsius"),
    ],
}


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    """Three contexts in SQuAD format, and a question that has no answer."""
    paragraphs: list[dict[str, Any]] = []
    for context, pairs in CONTEXTS.items():
        qas = [{"question": q, "answers": [{"text": a, "answer_start": context.index(a)}], "id": q} for q, a in pairs]
        paragraphs.append({"context": context, "qas": qas})
    paragraphs[0]["qas"].append({"question": "Who won the chess game in Reykjavik?", "answers": [], "id": "none"})
    file = tmp_path / "small.json"
    file.write_text(json.dumps({"data": [{"title": "Small", "paragraphs": paragraphs}]}))
    return file


def run(script: str, *arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.model
@pytest.mark.process
def test_retrieval(squad: Path, default_bundle: Path) -> None:
    found = json.loads(run("eval_retrieval.py", squad, "--json", "--bundle", default_bundle))
    assert found["questions"] == 4 and found["documents"] == 3
    for arm in ("dense", "bm25", "fused"):
        assert found[arm]["recall@1"] <= found[arm]["recall@3"] <= found[arm]["recall@5"] <= found[arm]["recall@10"]
    assert found["fused"]["recall@1"] == found["fused"]["mrr"] == 1.0


@pytest.mark.model
@pytest.mark.process
def test_answers(squad: Path, default_bundle: Path) -> None:
    found = json.loads(run("eval_answers.py", squad, "--json", "--bundle", default_bundle))
    assert found["questions"] == 5
    assert found["abstained"] == 0.2
    assert 0.2 <= found["citation_precision"] <= 1
    assert 0.2 <= found["f1"] <= 1 and 0.2 <= found["em"] <= 1  # the question without an answer is right: 1 of 5


def test_a_missing_bundle_is_an_error_not_a_traceback(squad: Path, tmp_path: Path) -> None:
    run("eval_retrieval.py", squad, "--bundle", tmp_path / "none", code=1)
    run("eval_answers.py", squad, "--bundle", tmp_path / "none", code=1)


@pytest.mark.parametrize(
    ("predicted", "gold", "f1"),
    [
        ("The 46 metres.", "46 metres", 1.0),
        ("46", "46 metres", 2 / 3),
        ("", "x", 0.0),
        ("", "", 1.0),
        ("a b", "c", 0.0),
    ],
)
def test_f1_is_squad_s(predicted: str, gold: str, f1: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import eval_answers

    assert eval_answers.f1(predicted, gold) == pytest.approx(f1)
