"""The memory budget as a promise: real commands inside a real memory cgroup, and the ledger against what is measured.

The pages of the weights are charged to the cgroup (fresh copies, dropped from the page cache); those of the interpreter
and of libraries that this test process maps too are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from _cgroup import MemoryCgroup, NoCgroup  # noqa: E402

from edge.memory import oom_kills  # noqa: E402

EDGE = [sys.executable, "-c", "from edge.cli import main; main()"]
MIB = 2**20
LIMIT = 256 * MIB
QUESTION = "How long does the gateway keep readings when the MQTT broker cannot be reached?"

pytestmark = [pytest.mark.model, pytest.mark.process]


@pytest.fixture(scope="module")
def environment(sample_home: Path) -> dict[str, str]:
    """`edge` with the default bundle, its weights prepared for this CPU as an installation does it."""
    variables = {**os.environ, "EDGE_HOME": str(sample_home)}
    subprocess.run([*EDGE, "bundle", "prepare"], env=variables, check=True, capture_output=True)
    return variables


@pytest.fixture
def cgroup() -> Iterator[MemoryCgroup]:
    try:
        with MemoryCgroup(LIMIT) as made:
            yield made
    except NoCgroup as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")


def run(cgroup: MemoryCgroup, environment: dict[str, str], *arguments: str, code: int = 0) -> dict[str, Any]:
    done = cgroup.run([*EDGE, *arguments, "--json"], env=environment, timeout=300)
    assert cgroup.oom_kills == 0
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"stderr": done.stderr}


def test_the_longest_prompt_inside_256_mib(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "measure_limit.py", "256MiB", "--json"],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["oom_kills"] == 0
    assert found["major_faults_per_token"] <= 1
    assert found["context_tokens"] >= 1536  # of 2048, which nearly fits or just fits
    assert found["prompt_tokens"] >= 0.85 * found["context_tokens"]
    assert found["asked_prompt_tokens"] >= 0.75 * found["context_tokens"]
    assert found["private_peak_bytes"] <= 110_000_000  # the goal: with the embedder, which has ended by then
    assert len(found["notes"]) == (found["context_tokens"] < 2048)


@pytest.mark.parametrize("limit", [LIMIT, 240 * MIB])
def test_ask_answers_inside_the_limit(environment: dict[str, str], cgroup: MemoryCgroup, limit: int) -> None:
    cgroup.set_limit(limit)
    found = run(cgroup, environment, "ask", QUESTION)
    assert found["citations"][0]["document"].endswith("user-manual.md")
    if limit < LIMIT:  # with a shorter context, and whose limit that is
        assert "fits in the memory budget of 240.0 MiB (" in found["stderr"]
        assert "memory.limit_in_bytes" in found["stderr"] or "memory.max" in found["stderr"]


def test_what_cannot_fit_is_refused_and_not_killed(environment: dict[str, str], cgroup: MemoryCgroup) -> None:
    cgroup.set_limit(150 * MIB)
    found = run(cgroup, environment, "ask", QUESTION, code=1)
    assert found["kind"] == "BudgetExceeded"
    assert "the weights alone take" in found["error"]
    assert "of cgroup" in found["error"]  # and who set the limit


def test_an_ingest_inside_the_limit(environment: dict[str, str], cgroup: MemoryCgroup, tmp_path: Path) -> None:
    documents = ROOT / "samples" / "documents"
    names = [str(documents / name) for name in ("user-manual.md", "error-codes.csv", "maintenance-log.jsonl")]
    report = run(cgroup, environment, "ingest", *names, "--index", str(tmp_path / "index.db"))
    assert (report["added"], report["failed"]) == (3, [])


def test_a_limit_lowered_while_a_conversation_goes_on(environment: dict[str, str], cgroup: MemoryCgroup) -> None:
    cgroup.set_limit(400 * MIB)
    process = subprocess.Popen(
        cgroup.command([*EDGE, "chat", "--json"]), env=environment, text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    answers = []
    try:
        for limit, question in ((400, QUESTION), (290, "How heavy is it?"), (200, "And how long?")):
            cgroup.set_limit(limit * MIB)
            process.stdin.write(question + "\n")
            answers.append(json.loads(process.stdout.readline()))
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    assert answers[0]["citations"]
    assert answers[1]["question"] == "How heavy is it?"  # with less: smaller pieces, retrieval in its own process
    assert answers[2]["kind"] == "BudgetExceeded"
    assert oom_kills(cgroup.path) == 0


def test_the_ledger_is_within_a_tenth_of_what_is_measured(environment: dict[str, str]) -> None:
    started = time.monotonic()
    done = subprocess.run([*EDGE, "plan", "--measure", "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(done.stdout)["measured"]
    assert 0.9 <= measured["planned_ratio"] <= 1.1
    assert measured["tokens"] > 1952  # the whole context but for what the answer did not use
    for name, group in measured["groups"].items():  # no line may be far off, and another make up for it
        assert abs(group["planned_bytes"] - group["measured_bytes"]) < 20 * MIB, (name, group, measured)
    assert time.monotonic() - started < 400
