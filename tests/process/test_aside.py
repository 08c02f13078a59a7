"""Retrieval in a process of its own gives what it gives in this one, errors included, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge import aside
from edge.box import Box
from edge.config import EdgeConfig
from edge.errors import EngineError, PromptTooLong, StoreMissing, UsageError
from edge.memory import tree_memory
from edge.store.filters import Filter

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTION = "How long does the gateway keep readings when the MQTT broker cannot be reached?"


def request(
    home: Path, question: str = QUESTION, where: Filter | None = None, index: str = "index.db"
) -> aside.Request:
    arguments = {"question": question, "where": where, "top_k": 3}
    return aside.Request(os.getpid(), home / "bundle", home / index, EdgeConfig(), "retrieve", arguments)


def test_the_hits_are_those_of_this_process(sample_home: Path) -> None:
    with Box(sample_home / "bundle", sample_home / "index.db", EdgeConfig()) as box:
        here = box.retrieve(QUESTION, top_k=3)
    processes = len(tree_memory(os.getpid()).processes)
    assert aside.run_aside(request(sample_home)) == here
    assert len(tree_memory(os.getpid()).processes) == processes


def test_a_filter_goes_along(sample_home: Path) -> None:
    hits = aside.run_aside(request(sample_home, where=Filter.parse(("type=csv",))))
    assert {hit.type for hit in hits} == {"csv"}


def test_errors_come_back_as_they_are(sample_home: Path) -> None:
    with pytest.raises(StoreMissing, match="edge ingest"):
        aside.run_aside(request(sample_home, index="none.db"))
    with pytest.raises(UsageError, match="the question is empty"):
        aside.run_aside(request(sample_home, question=" "))


def test_vectors_are_those_of_this_process(sample_home: Path) -> None:
    with Box(sample_home / "bundle", sample_home / "index.db", EdgeConfig()) as box:
        here, counts = box.embed([QUESTION, "Fuse F3"])
    asked = dataclasses.replace(request(sample_home), call="embed", arguments={"texts": [QUESTION, "Fuse F3"]})
    there, as_many = aside.run_aside(asked)
    assert there.tolist() == here.tolist()
    assert as_many == counts
    with pytest.raises(PromptTooLong, match="input 1 has"):
        aside.run_aside(dataclasses.replace(asked, arguments={"texts": ["short", "word " * 400]}))


def test_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory budget has room for one such process, whoever asks meanwhile."""
    there, most = 0, 0

    def counted(_request: aside.Request) -> int:
        nonlocal there, most
        there += 1
        most = max(most, there)
        time.sleep(0.02)
        there -= 1
        return most

    monkeypatch.setattr(aside, "_run", counted)
    asked = request(Path("/nowhere"))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(aside.run_aside, [asked] * 8)) == [1] * 8


def test_a_process_that_dies_is_an_error(sample_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def killed(command: list[str], **options: object) -> object:
        program = "import os, sys; sys.stderr.write('out of memory'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
        return real([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(EngineError, match="out of memory"):
        aside.run_aside(request(sample_home))
