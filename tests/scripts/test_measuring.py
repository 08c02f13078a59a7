"""The measuring scripts, on a file of a few questions and the real default bundle: the same path as the long runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge.config import EdgeConfig

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
    for arm in ("dense", "bm25", "fused", "judged"):
        assert found[arm]["recall@1"] <= found[arm]["recall@3"] <= found[arm]["recall@5"] <= found[arm]["recall@10"]
    assert found["fused"]["recall@1"] == found["fused"]["mrr"] == found["judged"]["mrr"] == 1.0


@pytest.mark.model
@pytest.mark.process
def test_answers(squad: Path, default_bundle: Path) -> None:
    found = json.loads(run("eval_answers.py", squad, "--json", "--bundle", default_bundle))
    assert found["questions"] == 5
    assert found["abstained"] == 0.2
    assert 0.2 <= found["citation_precision"] <= 1
    assert 0.2 <= found["f1"] <= 1 and 0.2 <= found["em"] <= 1  # the question without an answer is right: 1 of 5


@pytest.mark.model
@pytest.mark.process
def test_an_interrupted_run_goes_on(
    squad: Path, default_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is taken up, all else is asked; a line that a kill cut in half is not trusted."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    arguments = ("eval_answers.py", squad, "--json", "--bundle", default_bundle)
    whole = json.loads(run(*arguments))
    assert whole["resumed"] == 0
    (kept,) = (tmp_path / "cache" / "answers").glob("*.jsonl")
    lines = [line for line in kept.read_text().splitlines() if line]
    assert len(lines) == 5
    marked = json.loads(lines[0]) | {"f1": 3.0}
    kept.write_text("\n".join(["", json.dumps(marked), lines[1], lines[2][:20]]))
    found = json.loads(run(*arguments, "--resume"))
    assert found["resumed"] == 2
    assert found["f1"] == pytest.approx(whole["f1"] + (3.0 - json.loads(lines[0])["f1"]) / 5, abs=1e-3)
    assert json.loads(run(*arguments, "--resume"))["resumed"] == 5
    again = json.loads(run(*arguments))
    assert (again["resumed"], again["f1"]) == (0, whole["f1"])


def test_answers_of_other_code_or_another_file_are_not_taken_up(
    squad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import eval_answers

    import edge

    class FakeBox:
        class bundle:
            digest = "b"

        config = EdgeConfig()

    first = eval_answers.digest(squad, FakeBox())
    assert first == eval_answers.digest(squad, FakeBox())
    FakeBox.config = EdgeConfig(threads=1)
    assert eval_answers.digest(squad, FakeBox()) != first
    FakeBox.config = EdgeConfig()
    package = tmp_path / "edge"
    package.mkdir()
    (package / "answer.py").write_text("x = 1")
    monkeypatch.setattr(edge, "__file__", str(package / "__init__.py"))
    assert eval_answers.digest(squad, FakeBox()) != first


def test_each_file_s_result_is_written_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import _qualify

    interruption: BaseException

    def script(name: str, file: str, *arguments: str) -> dict[str, Any]:
        if file == "second.json":
            raise interruption
        return {"file": file}

    monkeypatch.setattr(_qualify, "_script", script)
    call = ["_qualify.py", "answers", "first.json", "second.json", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", call)
    for error, code in ((_qualify.Failed("eval_answers.py", 1), 1), (KeyboardInterrupt(), 130)):
        interruption = error
        assert _qualify.main() == code
        assert "results of 1 file" in capsys.readouterr().err
    written = sorted(tmp_path.glob("*-answers*.json"))
    assert len(written) == 2  # the second run did not overwrite the first
    for file in written:
        assert json.loads(file.read_text())["results"] == [{"file": "first.json"}]


def test_a_missing_bundle_is_an_error_not_a_traceback(squad: Path, tmp_path: Path) -> None:
    run("eval_retrieval.py", squad, "--bundle", tmp_path / "none", code=1)
    run("eval_answers.py", squad, "--bundle", tmp_path / "none", code=1)
