"""Retrieval in a process of its own gives what it gives in this one, errors included, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge import aside
from edge.box import Box
from edge.config import EdgeConfig
from edge.errors import EngineError, StoreMissing, UsageError
from edge.memory import tree_memory
from edge.store.filters import Filter

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTION = "How long does the gateway keep readings when the MQTT broker cannot be reached?"


def request(
    home: Path, question: str = QUESTION, where: Filter | None = None, index: str = "index.db"
) -> aside.Request:
    return aside.Request(os.getpid(), home / "bundle", home / index, EdgeConfig(), question, where, 3)


def test_the_hits_are_those_of_this_process(sample_home: Path) -> None:
    with Box(sample_home / "bundle", sample_home / "index.db", EdgeConfig()) as box:
        here = box.retrieve(QUESTION, top_k=3)
    processes = len(tree_memory(os.getpid()).processes)
    assert list(aside.retrieve_aside(request(sample_home))) == here
    assert len(tree_memory(os.getpid()).processes) == processes


def test_a_filter_goes_along(sample_home: Path) -> None:
    hits = aside.retrieve_aside(request(sample_home, where=Filter.parse(("type=csv",))))
    assert {hit.type for hit in hits} == {"csv"}


def test_errors_come_back_as_they_are(sample_home: Path) -> None:
    with pytest.raises(StoreMissing, match="edge ingest"):
        aside.retrieve_aside(request(sample_home, index="none.db"))
    with pytest.raises(UsageError, match="the question is empty"):
        aside.retrieve_aside(request(sample_home, question=" "))


def test_a_process_that_dies_is_an_error(sample_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def killed(command: list[str], **options: object) -> object:
        program = "import os, sys; sys.stderr.write('out of memory'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
        return real([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(EngineError, match="out of memory"):
        aside.retrieve_aside(request(sample_home))
