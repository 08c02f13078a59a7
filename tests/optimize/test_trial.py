"""Asking a data set of the real default bundle, and the command that scores it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.box import Box
from edge.errors import DatasetError
from optimize import trial
from optimize.cli import optimize
from optimize.dataset.examples import Example, Shown
from optimize.trial import Asked, summary

PASSAGES = {
    "lighthouse": "The lighthouse at Skagen was built in 1858. It is 46 metres high and has 210 steps.",
    "bakery": "The bakery opens at five in the morning. Its rye bread rises for eleven hours.",
}
EXAMPLES = [
    Example("1", "lighthouse", "When was the lighthouse built?", (Shown("", PASSAGES["lighthouse"]),), ("1858",), 1),
    Example("2", "bakery", "For how long does the rye bread rise?", (Shown("", PASSAGES["bakery"]),),
            ("eleven hours",), 1),
    Example("3", "bakery", "Who won the chess game in Reykjavik?", (Shown("", PASSAGES["bakery"]),), ()),
]  # fmt: skip


def asked(answerable: bool, f1: float, abstained: bool, cited_right: bool = False) -> Asked:
    return Asked("", answerable, "", float(f1 == 1), f1, abstained, False, cited_right, 0.1, 0.1, 0.5)


def test_the_summary_tells_kinds_of_questions_apart() -> None:
    found = summary([asked(True, 1.0, False, True), asked(True, 0.5, False), asked(True, 0.0, True),
                     asked(False, 1.0, True), asked(False, 0.0, False)])  # fmt: skip
    assert (found.questions, found.f1, found.cited_right) == (5, 0.5, 0.5)
    assert found.em == pytest.approx(1 / 3)
    assert (found.abstention_precision, found.abstention_recall) == (0.5, 0.5)
    none = summary([asked(True, 1.0, False)])
    assert none.abstention_precision is None and none.abstention_recall is None


def test_questions_on_hidden_passages_have_no_answer() -> None:
    left, chosen = trial.hidden(EXAMPLES[:2], EXAMPLES[:2], 0.5, 0)
    assert len(left) == 1
    assert [bool(one.answers) for one in chosen] == [one in left for one in EXAMPLES[:2]]
    assert trial.hidden(EXAMPLES, EXAMPLES, 0.0, 0) == (EXAMPLES, EXAMPLES)


@pytest.mark.model
@pytest.mark.process
def test_questions_are_asked_over_an_index_of_their_passages(default_bundle: Path, tmp_path: Path) -> None:
    with Box.open(bundle=default_bundle, index=tmp_path / "own.db", config=None) as box:
        found = trial.ask(box, EXAMPLES)
        assert box.index_path == tmp_path / "own.db"  # as it was
        with pytest.raises(DatasetError, match="no passages"):
            trial.ask(box, [Example("x", "x", "Why?", (), ("So.",))])
    assert [one.abstained for one in found] == [False, False, True]
    assert all(one.cited_right for one in found[:2])
    assert found[2].f1 == found[2].em == 1.0


@pytest.mark.model
@pytest.mark.process
def test_two_bundles_are_compared_on_the_same_questions(default_bundle: Path, tmp_path: Path) -> None:
    file, answers = tmp_path / "qa.jsonl", tmp_path / "answers.jsonl"
    file.write_text(
        "".join(
            json.dumps({"question": e.question, "context": e.passages[0].text, "document": e.document}
                       | ({"answer": e.answers[0]} if e.answers else {"answer": None, "unanswerable": True})) + "\n"
            for e in EXAMPLES
        )
    )  # fmt: skip
    arguments = ["score", str(file), "--bundle", str(default_bundle), "--against", str(default_bundle), "--json"]
    done = CliRunner().invoke(optimize, [*arguments, "--answers", str(answers)], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["bundle"]["questions"] == 3 and found["bundle"]["abstention_precision"] == 1.0
    assert found["bundle"]["f1"] == found["against"]["f1"]
    assert found["f1_difference"]["difference"] == 0 and found["f1_difference"]["p"] == 1
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["accepted"] for row in rows] == [["1858"], ["eleven hours"], []]
    assert all(row["bundle"]["text"] == row["against"]["text"] for row in rows)
