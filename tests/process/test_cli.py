"""The command line as a person uses it: real processes, the real default bundle, the sample documents."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "documents"
EDGE = [sys.executable, "-c", "from edge.cli import main; main()"]
READINGS = "How long does the gateway keep readings when the MQTT broker cannot be reached?"

pytestmark = [pytest.mark.model, pytest.mark.process]


class Run:
    """`edge` with one EDGE_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "EDGE_HOME": str(home), "COLUMNS": "100"}

    def __call__(self, *arguments: str | Path, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*EDGE, *map(str, arguments)],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        """The one object that stands on stdout."""
        lines = self(*arguments, "--json", code=code).stdout.splitlines()
        assert len(lines) == 1
        found: dict[str, Any] = json.loads(lines[0])
        return found


@pytest.fixture
def edge(sample_home: Path) -> Run:
    return Run(sample_home)


@pytest.fixture
def own(default_bundle: Path, tmp_path: Path) -> Run:
    """A box of one's own with the default bundle and nothing indexed."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "bundle").symlink_to(default_bundle)
    return Run(home)


def test_ask_prints_one_object_with_a_citation_that_holds_the_evidence(edge: Run) -> None:
    found = edge.json("ask", READINGS)
    assert {
        "answer", "citations", "abstained", "dropped", "prompt_tokens", "completion_tokens", "finish_reason",
        "retrieve_sec", "ttft_sec", "decode_tok_per_sec", "rss_peak_bytes",
    } <= set(found)  # fmt: skip
    assert not found["abstained"]
    citation = found["citations"][0]
    assert {"marker", "document", "page", "start", "end", "text", "score"} <= set(citation)
    assert citation["document"].endswith("user-manual.md")
    assert "72 hours" in citation["text"]
    assert 0 < found["ttft_sec"] < 60
    assert 50e6 < found["rss_peak_bytes"] < 2e9


def test_a_span_indexes_the_stored_text(edge: Run) -> None:
    from edge.store.chunks import Store

    citation = edge.json("ask", READINGS)["citations"][0]
    with Store.open(edge.home / "index.db") as store:
        document = store.document(citation["document"])
    assert document is not None
    assert document.text[citation["start"] : citation["end"]] == citation["text"]


def test_ask_for_a_person_shows_the_source(edge: Run) -> None:
    shown = edge("ask", READINGS).stdout
    assert "Sources" in shown
    assert "user-manual.md" in shown


def test_an_unanswerable_question_exits_with_3(edge: Run) -> None:
    found = edge.json("ask", "Who painted the ceiling of the Sistine Chapel?", code=3)
    assert found["abstained"]
    assert found["citations"] == []
    assert found["finish_reason"] == "abstained"


def test_the_page_of_a_pdf_is_kept(edge: Run) -> None:
    found = edge.json("ask", "How heavy is the gateway in grams?", "--filter", "type=pdf")
    assert {citation["page"] for citation in found["citations"]} <= {1, 2, 3}


def test_filter_and_explain(edge: Run) -> None:
    found = edge.json("ask", "What does the error code E503 mean?", "--filter", "type=csv", "--explain")
    assert found["hits"]
    assert {Path(hit["document"]).name for hit in found["hits"]} == {"error-codes.csv"}
    assert {"dense", "lexical", "fused", "relevance", "marker"} <= set(found["hits"][0])
    packed = [hit["marker"] for hit in found["hits"] if hit["marker"]]
    assert packed == sorted(packed) and packed
    assert len(packed) + len(found["dropped"]) == len(found["hits"])
    assert "E503" in found["prompt"]
    edge("ask", "x", "--filter", "colour=red", code=2)


def test_explain_for_a_person(edge: Run) -> None:
    shown = edge("ask", READINGS, "--explain").stderr
    assert "relevance" in shown and "Prompt" in shown and "<|im_start|>" in shown


def test_the_model_alone_shows_no_sources(edge: Run) -> None:
    found = edge.json("ask", "What is the capital of Norway?", "--mode", "model")
    assert found["answer"] and found["citations"] == [] and found["retrieve_sec"] == 0


def test_batch_gives_a_line_for_each_question(edge: Run, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    questions = [READINGS, "Who painted the ceiling of the Sistine Chapel?", "why " * 5000]
    file.write_text("".join(json.dumps({"id": i, "question": q}) + "\n" for i, q in enumerate(questions)))
    lines = [json.loads(line) for line in edge("ask", "--batch", file, code=1).stdout.splitlines()]
    assert [line["id"] for line in lines] == [0, 1, 2]
    assert lines[0]["citations"] and lines[1]["abstained"]
    assert "shorten" in lines[2]["error"]
    file.write_text('{"id": 1, "question": "x"}\n{"id": 2}\n')
    assert "line 2" in edge("ask", "--batch", file, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("ask", ""), 2, "the question is empty"),
        (("ask",), 2, "either a question or --batch"),
        (("ask", "why " * 5000), 1, "shorten it by"),
        (("ask", "x", "--bundle", "/nowhere/bundle"), 1, "/nowhere/bundle"),
        (("ask", "x", "--config", "/nowhere/config.yaml"), 1, "no such file"),
        (("ask", "x", "--index", "/nowhere/index.db"), 1, "edge ingest"),
        (("ingest", "/nowhere/file.txt"), 2, "/nowhere/file.txt"),
        (("index", "remove"), 2, "--all"),
        (("index", "remove", ""), 2, "empty name"),
        (("ingest", ""), 2, "a path is empty"),
        (("index", "remove", "no-such-file.txt"), 2, "no document matches"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_mistakes_get_a_message_that_says_what_to_do(
    edge: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    assert message in edge(*arguments, code=code).stderr
    assert message in edge.json(*arguments, code=code)["error"]


def test_a_corrected_source_changes_the_answer_and_its_citation(own: Run, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    shutil.copytree(SAMPLES, folder)
    own.json("ingest", folder)
    before = own.json("ask", READINGS)
    manual = folder / "user-manual.md"
    manual.write_text(manual.read_text(encoding="utf-8").replace("72 hours", "96 hours"), encoding="utf-8")
    report = own.json("ingest", folder)
    assert (report["replaced"], report["added"]) == (1, 0)
    after = own.json("ask", READINGS)
    assert "72 hours" in before["citations"][0]["text"] and "72" in before["answer"]
    assert "96 hours" in after["citations"][0]["text"] and "96" in after["answer"]


def test_the_life_of_an_index(own: Run, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name in ("user-manual.md", "error-codes.csv"):
        shutil.copy(SAMPLES / name, folder)
    assert own.json("ingest", folder)["added"] == 2
    status = own.json("index", "status")
    assert status["documents"] == 2 and status["chunks"] > 20 and status["bytes"] > 0
    assert status["embedder"] == own.json("bundle", "show")["manifest"]["embedder"]["fingerprint"]
    (folder / "error-codes.csv").unlink()
    assert own.json("ingest", folder)["unchanged"] == 1
    assert own.json("ingest", folder, "--prune")["removed"] == 1
    assert own.json("index", "rebuild")["replaced"] == 1
    assert "gained_bytes" in own.json("index", "compact")
    assert own.json("index", "remove", folder)["removed"] == 1
    assert own.json("index", "status")["documents"] == 0
    assert own.json("ask", READINGS, code=3)["abstained"]


def test_a_failed_document_is_named_and_the_rest_is_in(own: Run, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("The pump is red.")
    (tmp_path / "bad.txt").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "empty.txt").write_bytes(b"")
    failed = own.json("ingest", *(tmp_path / name for name in ("good.txt", "bad.txt", "empty.txt")), code=1)["failed"]
    assert {Path(source).name for source, _ in failed} == {"bad.txt", "empty.txt"}
    assert own.json("index", "status")["documents"] == 1


def test_bundle_show_and_verify(own: Run, default_bundle: Path, tmp_path: Path) -> None:
    shown = own.json("bundle", "show")
    assert {"path", "manifest", "digest"} <= set(shown)
    assert own.json("bundle", "verify")["digest"] == shown["digest"]
    damaged = tmp_path / "damaged"
    shutil.copytree(default_bundle, damaged)
    weights = next(damaged.glob("model/*.data"))
    with weights.open("r+b") as stream:
        stream.seek(weights.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    assert weights.name in own("bundle", "verify", "--bundle", damaged, code=1).stderr
    weights.unlink()
    assert weights.name in own("ask", "x", "--bundle", damaged, "--mode", "model", code=1).stderr


def test_doctor_finds_what_is_wrong(edge: Run, own: Run) -> None:
    assert edge.json("doctor")["ok"]
    levels = {finding["check"]: finding["level"] for finding in own.json("doctor")["findings"]}
    assert levels["bundle"] == "ok" and levels["index"] == "note"
    (own.home / "index.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    assert {f["check"] for f in own.json("doctor", code=1)["findings"] if f["level"] == "fail"} == {"index"}


def test_chat_follows_up(edge: Run) -> None:
    done = edge(
        "chat", "--json", stdin="How long does a firmware update take?\nWhat if the new one does not start?\n/quit\n"
    )
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["standalone"] == first["question"]
    assert any("user-manual.md" in citation["document"] for citation in second["citations"])


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.5, 0.7, 1.0])  # imports, native modules, loading, searching
def test_ctrl_c_ends_quietly(edge: Run, seconds: float) -> None:
    process = subprocess.Popen(
        [*EDGE, "ask", READINGS], env=edge.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    assert process.returncode in (0, 130)


def test_a_reader_that_goes_away_is_no_error(edge: Run) -> None:
    process = subprocess.Popen(
        [*EDGE, "index", "status", "--documents"], env=edge.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) in (0, 1)
    assert b"Traceback" not in errors and b"Exception" not in errors


def test_a_terminal_sees_the_answer_as_it_is_written(edge: Run) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*EDGE, "ask", READINGS],
        env=edge.environment,
        stdout=child,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    os.close(child)
    pieces, seen = 0, b""
    while True:
        if not select.select([parent], [], [], 60)[0]:
            break
        try:
            data = os.read(parent, 4096)
        except OSError:  # the other end has closed
            break
        pieces, seen = pieces + 1, seen + data
    os.close(parent)
    assert process.wait(30) == 0
    assert pieces > 1
    assert 0 <= seen.find(b"\x1b[2m") < seen.find(b"Sources"), "the draft, dimmed"
