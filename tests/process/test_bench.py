"""`edge bench` as a person uses it: real processes, the real bundle, a made-up peer on loopback, tiny figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge.bench.result import SCHEMA, read, write
from tests.edge.bench.made import Handler, completing, make_result, peer

EDGE = [sys.executable, "-c", "from edge.cli import main; main()"]
SETTINGS = """
repetitions: 2
warmup: 0
latency: {prompt_tokens: [48, 16], new_tokens: 12, cold_starts: 1}
rag: {questions: 2}
retrieval: {queries: 3, index_chunks: [40, 400]}
memory: {runs: 1, questions: 2}
energy: {seconds: 0.2}
peer: {timeout_sec: 20.0}
"""
SHORT = "answer: {context_tokens: 768, max_tokens: 12, max_passages: 2}"  # what edge itself is told

pytestmark = [pytest.mark.model, pytest.mark.process]


class Bench:
    """`edge bench` with the sample documents' home and tiny settings."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.environment = {**os.environ, "EDGE_HOME": str(home), "COLUMNS": "100"}
        self.folder = folder
        (folder / "tiny.yaml").write_text(SETTINGS)
        (folder / "short.yaml").write_text(SHORT)

    def command(self, *arguments: str | Path) -> list[str]:
        tiny = [] if arguments[0] in ("compare", "report") else ["--settings", str(self.folder / "tiny.yaml")]
        return [*EDGE, "bench", *tiny, *map(str, arguments)]

    def __call__(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=300, cwd=self.folder
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def bench(sample_home: Path, tmp_path: Path) -> Bench:
    return Bench(sample_home, tmp_path)


def test_latency_in_turns_with_a_peer(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    with peer(completions=completing(0.002)) as (url, asked):
        shown = bench("--suite", "latency", "--peer", url, "--out", out).stdout
    result = read(out)
    metrics = result.suites["latency"].metrics
    for name in (
        "tokenize_sec_p50", "prefill_tok_per_sec_p50", "ttft_sec_p50", "ttft_sec_p95", "inter_token_sec_p50",
        "inter_token_sec_p95", "inter_token_sec_p99", "decode_tok_per_sec_p50", "load_sec_p50", "cold_start_sec_p50",
        "prefill_16_tok_per_sec_p50",
    ):  # fmt: skip
        assert metrics[name] and 0 < metrics[name] < 1e7, name
    assert 80e6 < (metrics["rss_peak_bytes"] or 0) < 2e9
    assert (metrics["rss_peak_bytes"] or 0) > (metrics["private_peak_bytes"] or 0) > 10e6
    (found,) = result.peers
    for name in ("prefill_tok_per_sec_p50", "decode_tok_per_sec_p50", "ttft_sec_p50"):
        theirs = found.suites["latency"].metrics[name]
        assert result.ratios[name] == pytest.approx((metrics[name] or 0) / (theirs or 0), rel=1e-3)
    assert "rss_peak_bytes" not in result.ratios
    assert "process" in found.suites["latency"].reasons["rss_peak_bytes"]
    samples = result.suites["latency"].samples["generation"]
    assert [sample["prompt_tokens"] for sample in samples] == [48, 48, 16, 16]
    assert len(asked) == 1 + 4  # one to find the route, then one a turn
    assert len({request["prompt"] for request in asked}) == 5
    assert "decode_tok_per_sec_p50" in shown and "edge ÷ peer" in shown


def test_what_is_inside_a_result(bench: Bench, tmp_path: Path, default_bundle: Path) -> None:
    done = bench("--suite", "load", "--suite", "energy", "--json", "--out", tmp_path / "r.json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == SCHEMA and found["complete"] and found == json.loads((tmp_path / "r.json").read_text())
    environment = found["environment"]
    assert {
        "cpu", "cores_allowed", "governor", "memory_limit_bytes", "kernel", "versions", "git_sha", "git_dirty",
        "conditions",
    } <= set(environment)  # fmt: skip
    assert environment["bundle"]["digest"] == (default_bundle / "manifest.yaml.sha256").read_text().split()[0]
    assert found["settings"]["repetitions"] == 2 and found["settings"]["warmup"] == 0
    assert found["suites"]["load"]["metrics"]["queue_wait_sec_p50"] is None
    assert "no server yet" in found["suites"]["load"]["reasons"]["queue_wait_sec_p50"]
    energy = found["suites"]["energy"]
    assert energy["metrics"]["decode_joules_per_tok"] is not None or energy["reasons"]["decode_joules_per_tok"]


def test_suites_about_documents(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    bench("--suite", "rag", "--suite", "retrieval", "--suite", "memory", "--config", "short.yaml", "--out", out)
    result = read(out)
    rag = result.suites["rag"].metrics
    for stage in ("embed", "retrieve", "pack", "prefill", "decode", "end_to_end"):
        assert rag[f"{stage}_sec_p50"] and (rag[f"{stage}_sec_p50"] or 0) > 0
    assert rag["cold_cached_share_p50"] == 0
    assert (rag["follow_up_cached_share_p50"] or 0) > (rag["warm_prefix_cached_share_p50"] or 0) > 0
    assert (rag["follow_up_ttft_sec_p50"] or 9) < (rag["cold_ttft_sec_p50"] or 0)
    rows = result.suites["retrieval"].series["by_index_chunks"]
    assert rows[0]["index_chunks"] == 40 and {40, 400} < {row["index_chunks"] for row in rows}
    assert all(row["recall_at_10"] >= 0.9 and row["real_chunks"] <= row["index_chunks"] for row in rows)
    assert result.suites["retrieval"].metrics["dense_400_sec_p50"]
    memory = result.suites["memory"].metrics
    assert (memory["rag_rss_peak_bytes"] or 0) > (memory["rag_private_peak_bytes"] or 0) > 10e6
    assert (memory["longest_rss_peak_bytes"] or 0) > 50e6
    names = [name for suite in result.suites.values() for name in suite.metrics]
    assert len(set(names)) == len(names)  # a metric's name means one thing


def crash_after(answers: int) -> Any:
    """Answer so many requests and break off in the middle of the next."""
    count = 0
    whole = completing()

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count <= answers:
            whole(handler, body)
        else:
            handler.begin()
            handler.event({"choices": [{"text": " half", "finish_reason": None}]})

    return answer


def test_a_peer_that_dies_in_the_middle_costs_its_part_only(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    with peer(completions=crash_after(2)) as (url, _):
        done = bench("--peer", url, "--out", out, code=1)
    assert "broke off after 1 piece" in done.stderr and "decode_tok_per_sec_p50" in done.stdout
    assert not out.exists()
    partial = read(tmp_path / "r.json.partial")
    assert not partial.complete and len(partial.suites["latency"].samples["generation"]) == 4
    assert len(partial.peers[0].suites["latency"].samples["generation"]) == 1
    assert "run it again" in bench("compare", tmp_path / "r.json.partial", out, code=1).stderr


def test_a_peer_that_is_down_is_told_and_ours_is_measured(bench: Bench) -> None:
    done = bench("--suite", "load", "--peer", "http://127.0.0.1:9", code=1)
    assert "no peer answers at http://127.0.0.1:9" in done.stderr
    assert "queue_wait_sec_p50" in done.stdout


def test_llama_cpp_that_is_not_built_says_how_to(bench: Bench, tmp_path: Path) -> None:
    bench.environment["EDGE_CACHE"] = str(tmp_path / "cache")
    done = bench("--suite", "load", "--peer", "llama.cpp", "--peer-format", "Q4_0", code=1)
    assert "llama.cpp Q4_0 is out" in done.stderr and "run scripts/bench_peer_llamacpp.sh" in done.stderr
    assert "queue_wait_sec_p50" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--peer", "ollama"), 1, "no address of a peer"),
        (("--suite", "speed"), 2, "'speed' is not one of"),
        (("--out", "none/r.json"), 2, "there is no folder"),
        (("--text", "none.txt"), 2, "cannot be read"),
        (("--settings", "none.yaml"), 1, "no such file"),
        (("--prompt-tokens", "9", "--prompt-tokens", "9"), 2, "twice"),
        (("--prompt-tokens", "2048"), 2, "ask for at most 2047"),
        (("--bundle", "none"), 1, "no bundle there"),
        (("--suite", "rag", "--index", "none.db"), 1, "edge ingest"),
    ],
)
def test_mistakes_get_a_message(bench: Bench, arguments: tuple[str, ...], code: int, message: str) -> None:
    assert message in bench(*arguments, code=code).stderr


def test_compare_exits_with_4_on_a_regression(bench: Bench, tmp_path: Path) -> None:
    before = write(make_result({"decode_tok_per_sec_p50": 100.0}), tmp_path / "a.json")
    after = write(make_result({"decode_tok_per_sec_p50": 90.0}), tmp_path / "b.json")
    good, bad = "decode_tok_per_sec_p50 < 0.9x", "decode_tok_per_sec_p50 < 0.95x"
    assert "0.9" in bench("compare", before, after, "--fail-if", good).stdout
    done = bench("compare", before, after, "--fail-if", good, "--fail-if", bad, code=4)
    assert "regression: decode_tok_per_sec_p50 is 90, < 95" in done.stderr
    shown = json.loads(bench("compare", before, after, "--fail-if", bad, "--json", code=4).stdout)
    assert len(shown["regressions"]) == 1 and shown["metrics"][0]["ratio"] == 0.9
    assert "cannot be understood" in bench("compare", before, after, "--fail-if", "faster", code=2).stderr
    assert "did you mean" in bench("compare", before, after, "--fail-if", "decode_tok_per_s_p50 < 1", code=2).stderr
    (tmp_path / "old.json").write_text('{"schema": 0}')
    assert "older schema 0" in bench("compare", "old.json", after, code=1).stderr


def test_report_draws_a_page(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = write(make_result({"ttft_sec_p50": 0.1}), tmp_path / "a.json")
    bench("report", file, "--html", tmp_path / "out.html")
    assert "ttft_sec_p50" in (tmp_path / "out.html").read_text()
    assert "cannot be written" in bench("report", file, "--html", tmp_path, code=2).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_nothing_behind(bench: Bench, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "r.json"
    (tmp_path / "tiny.yaml").write_text(SETTINGS.replace("cold_starts: 1", "cold_starts: 0"))
    with peer(completions=completing(0.5)) as (url, asked):  # half a minute, if it were let
        process = subprocess.Popen(
            bench.command("--peer", url, "--out", out),
            env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while len(asked) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        children = _children(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.yaml", "tiny.yaml"]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
