"""`edge feedback` as a person uses it, and `edge ask` that keeps answers only where it was told to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge import feedback as kept
from edge.answer import NO_STATS, Answer
from edge.box import Box
from edge.cli.ask import ask
from edge.cli.feedback import feedback
from edge.errors import UsageError

ANSWER = Answer("Ten.", (), (), False, False, "Ten.", (), None, (), NO_STATS, 0.0, 0)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(feedback, list(arguments), catch_exceptions=False)


def test_add_list_export_delete(edge_home: Path, tmp_path: Path) -> None:
    added = run("add", "--question", "Q?", "--answer", "A", "--thumb", "down", "--correction", "B", "--json")
    assert json.loads(added.stdout) == {"feedback_id": 1}
    assert "should be: B" in run("list").stdout
    (row,) = json.loads(run("list", "--json").stdout)["feedback"]
    assert (row["question"], row["thumb"], row["correction"]) == ("Q?", "down", "B")
    assert run("rate", "1", "down", "--no-answer").exit_code == 0
    assert kept.read(kept.default_path())[0].correction == ""
    out = tmp_path / "out.jsonl"
    assert json.loads(run("export", str(out), "--json").stdout)["rows"] == 1
    assert json.loads(out.read_text())["answer"] == "A"
    assert run("delete", "--all").stdout == "1 deleted\n"
    assert run("list").stdout == "nothing is kept\n"


def test_nothing_was_ever_kept(edge_home: Path) -> None:
    assert run("list", "--json").stdout == '{"feedback": []}\n'
    assert run("delete", "--all").stdout == "0 deleted\n"
    assert not kept.default_path().exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["delete"], "say what to delete"),
        (["rate", "1", "down", "--correction", " "], "give --no-answer"),
        (["rate", "1", "down", "--correction", "x", "--no-answer"], "give either"),
    ],
)
def test_mistakes(edge_home: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*arguments)


@pytest.fixture
def answering(edge_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that answers without a model."""
    monkeypatch.setattr(Box, "ask", lambda box, question, **options: ANSWER)
    monkeypatch.setattr(Box, "bundle", dataclasses.make_dataclass("B", [("digest", str)])("d" * 64))


def asked(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(ask, ["How long?", "--json", *arguments], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("answering")
def test_ask_keeps_nothing_by_default(edge_home: Path) -> None:
    assert "feedback_id" not in asked()
    assert list(edge_home.iterdir()) == []


@pytest.mark.usefixtures("answering")
def test_ask_keeps_answers_where_it_was_told_to(edge_home: Path) -> None:
    (edge_home / "config.yaml").write_text("feedback: {enabled: true}\n")
    id = asked()["feedback_id"]
    (row,) = kept.read(edge_home / "feedback.db")
    assert (row.id, row.question, row.answer, row.bundle) == (id, "How long?", "Ten.", "d" * 64)
    shown = CliRunner().invoke(ask, ["How long?"], catch_exceptions=False).stdout
    assert f"edge feedback rate {id + 1} up|down" in shown


@pytest.mark.usefixtures("answering")
def test_an_answer_is_shown_though_it_cannot_be_kept(edge_home: Path) -> None:
    (edge_home / "config.yaml").write_text("feedback: {enabled: true}\n")
    (edge_home / "feedback.db").write_bytes(b"no database " * 400)
    done = CliRunner().invoke(ask, ["How long?", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["answer"] == "Ten."
    assert "was not kept" in done.stderr
