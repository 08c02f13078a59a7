"""`edge optimize data` as a user calls it: from feedback to a reviewed set, checks with exit codes, splits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edge import feedback
from edge.answer import ABSTENTION, NO_STATS, Answer
from edge.errors import DatasetError, StoreMissing, UsageError
from edge.types import Chunk, Citation, Hit, Passage, Prompt
from optimize import dataset
from optimize.cli import optimize
from optimize.dataset import cli as data_cli
from optimize.dataset.examples import sample


def run(*arguments: str | Path, stdin: str = "") -> Result:
    """As `edge` runs it: a command returns its exit code."""
    call = ["data", *map(str, arguments)]
    return CliRunner().invoke(optimize, call, input=stdin, catch_exceptions=False, standalone_mode=False)


def answered(text: str, *, abstained: bool = False, cited: int | None = None) -> Answer:
    hits = [Hit(n, f"/d/{n}.md", "Manual", "md", "en", Chunk(0, 0, 9, body), 0, 0, 0)
            for n, body in enumerate(("Hold it for ten seconds.", "Nothing else."), 1)]  # fmt: skip
    prompt = Prompt("", (), tuple(Passage(n, hit) for n, hit in enumerate(hits, 1)), ())
    cites = (Citation(cited, f"/d/{cited}.md", "Manual", None, 0, 9, "", 1.0, text),) if cited else ()
    return Answer(text, (), cites, abstained, False, text, tuple(hits), prompt, (), NO_STATS, 0.0, 0)


@pytest.fixture
def rated(edge_home: Path) -> Path:
    """Six rows of feedback: right, corrected, wrong, unrated, rightly refused, wrongly answered."""
    path = feedback.default_path()
    rows: list[tuple[str, str, bool, str | None, str | None]] = [
        ("Right?", "ten seconds [1]", False, "up", None),
        ("Corrected?", "nine", False, "down", "ten seconds"),
        ("Wrong?", "nine", False, "down", None),
        ("Unrated?", "nine", False, None, None),
        ("Refused?", ABSTENTION, True, "up", None),
        ("Should refuse?", "nine", False, "down", ""),
    ]
    for question, text, abstained, thumb, correction in rows:
        id = feedback.record(path, question, answered(text, abstained=abstained), "b" * 64, max_passages=3)
        if thumb is not None:
            feedback.rate(path, id, thumb, correction)  # type: ignore[arg-type]
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_accepted_ratings_become_examples(rated: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.jsonl"
    done = run("from-feedback", "--out", out, "--accept-ratings", "--json")
    assert json.loads(done.stdout) == {"path": str(out), "added": 4, "known": 0, "without_correction": 1}
    examples = {example.question: example for example in dataset.read(out)}
    assert {question: example.answers for question, example in examples.items()} == {
        "Right?": ("ten seconds",), "Corrected?": ("ten seconds",), "Refused?": (), "Should refuse?": (),
    }  # fmt: skip
    right = examples["Right?"]
    assert (right.document, right.support, right.passages[0].heading) == ("/d/1.md", 1, "Manual")
    assert sample(right).completion == "ten seconds [1]"


def test_an_answer_in_its_own_words_keeps_the_passage_that_it_cited(edge_home: Path, tmp_path: Path) -> None:
    path = feedback.default_path()
    for question, thumb, correction in (("Up?", "up", None), ("Down?", "down", "a while")):
        id = feedback.record(path, question, answered("some time", cited=2), "b", max_passages=3)
        feedback.rate(path, id, thumb, correction)  # type: ignore[arg-type]
    run("from-feedback", "--out", tmp_path / "f.jsonl", "--accept-ratings")
    up, down = dataset.read(tmp_path / "f.jsonl")
    assert (up.document, up.support, sample(up).completion) == ("/d/2.md", 2, "some time [2]")
    assert (down.document, down.support) == ("/d/1.md", None)  # who knows where the correction is from


def test_nothing_unreviewed_is_trained_on(rated: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.jsonl"
    assert f"edge optimize data review {out}" in run("from-feedback", "--out", out).stdout
    with pytest.raises(DatasetError, match=r"4 malformed.*\n.*not reviewed"):
        dataset.read(out)


def test_a_review_keeps_edits_and_drops_and_can_be_left(rated: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.jsonl"
    run("from-feedback", "--out", out)
    first = run("review", out, stdin="k\ne\neight seconds\nq\n")
    assert "2 decided, 2 pending" in first.stdout and "Hold it for ten seconds." in first.stdout
    assert [row["review"] for row in lines(out)] == ["keep", "keep", "pending", "pending"]
    assert "2 decided, 0 pending" in run("review", out, stdin="d\ne\n-\n").stdout
    examples = {example.question: example.answers for example in dataset.read(out)}
    assert examples == {"Right?": ("ten seconds",), "Corrected?": ("eight seconds",), "Should refuse?": ()}


def test_decisions_stay_until_a_row_is_rated_anew(rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "f.jsonl"
    run("from-feedback", "--out", out, "--review", stdin="k\nd\nk\nk\n")
    again = run("from-feedback", "--out", out, "--json")
    assert json.loads(again.stdout)["known"] == 4
    assert [row["review"] for row in lines(out)] == ["keep", "drop", "keep", "keep"]
    monkeypatch.setattr(feedback, "_now", lambda: "2027-01-01T00:00:00+00:00")
    feedback.rate(rated, 1, "down", "nothing else")
    assert json.loads(run("from-feedback", "--out", out, "--json").stdout)["added"] == 1
    assert (lines(out)[0]["answer"], lines(out)[0]["review"]) == ("nothing else", "pending")


def test_an_export_of_the_box_gives_the_same(rated: Path, tmp_path: Path) -> None:
    from edge.cli.feedback import feedback as commands

    CliRunner().invoke(commands, ["export", str(tmp_path / "export.jsonl")], catch_exceptions=False)
    run("from-feedback", "--out", tmp_path / "a.jsonl")
    run("from-feedback", "--feedback", tmp_path / "export.jsonl", "--out", tmp_path / "b.jsonl")
    assert lines(tmp_path / "a.jsonl") == lines(tmp_path / "b.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DatasetError, match="row 1 is none that `edge feedback export` wrote"):
        run("from-feedback", "--feedback", tmp_path / "bad.jsonl", "--out", tmp_path / "c.jsonl")


def test_no_feedback_and_none_rated(edge_home: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        run("from-feedback", "--out", tmp_path / "f.jsonl")
    feedback.record(feedback.default_path(), "Q?", answered("a"), "b", max_passages=1)
    with pytest.raises(DatasetError, match="no answer is rated yet"):
        run("from-feedback", "--out", tmp_path / "f.jsonl")
    with pytest.raises(UsageError, match="give either --review or --accept-ratings"):
        run("from-feedback", "--out", tmp_path / "f.jsonl", "--review", "--accept-ratings")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A training set and a held-out one that repeats a passage of it."""
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    rows = [{"document": f"d{n // 2}", "question": f"What stands on page {n}?", "context": f"Page {n}: word{n}. " * 3,
             "answer": f"word{n}"} for n in range(20)]  # fmt: skip
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held.write_text(json.dumps(rows[0] | {"document": "other"}) + "\n")
    return train, held


def test_check_exits_with_1_on_errors_only(edge_home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    train, held = files
    fine = run("check", train, "--json")
    found = json.loads(fine.stdout)
    assert fine.return_value == 0 and found["figures"]["examples"] == 20 and not found["failed"]
    assert "length" in {finding["check"] for finding in found["findings"] if finding["level"] == "info"}
    leak = run("check", train, "--held-out", held, "--html", tmp_path / "r.html")
    assert leak.return_value == 1 and "error    leakage: 1 held-out examples" in leak.stdout
    assert "1 held-out examples" in (tmp_path / "r.html").read_text()


def test_check_counts_tokens_with_the_tokenizer_that_is_named(
    edge_home: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DatasetError, match="no chat template"):
        run("check", files[0], "--tokenizer", folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}")
    done = run("check", files[0], "--tokenizer", folder, "--context-tokens", "20", "--json")
    figures = json.loads(done.stdout)["figures"]
    assert done.return_value == 1
    # word10 [ 1 ] and the token that ends the turn
    assert figures["completion_tokens"]["max"] == 5
    assert figures["context_tokens"] == 20 < figures["total_tokens"]["min"] < 60
    with pytest.raises(DatasetError, match=r"no tokenizer\.json"):
        run("check", files[0], "--tokenizer", tmp_path)


def test_a_split_is_written_and_checked(edge_home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "split.json"
    sizes = json.loads(run("split", files[0], "--out", out, "--held-out", "0.3", "--json").stdout)
    assert sizes["train"] + sizes["held_out"] == 20
    found = json.loads(run("check", files[0], "--split", out, "--json").stdout)
    assert found["figures"]["held_out_examples"] == sizes["held_out"]
    files[0].write_text(files[0].read_text().replace("word3", "word33"))
    with pytest.raises(DatasetError, match="changed since they were split"):
        run("check", files[0], "--split", out)
    run("split", files[0], "--out", out, "--document", "d4")
    assert {one.document for one in dataset.read_split(out, dataset.read(files[0])).held_out} == {"d4"}


def test_help_is_light() -> None:
    program = (
        "import sys; from optimize.dataset.cli import data; "
        "bad = {'torch', 'transformers', 'numpy', 'matplotlib', 'apsw'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert {"check", "ground", "split", "from-feedback", "review", "synthesize"} == set(data_cli.data.commands)
