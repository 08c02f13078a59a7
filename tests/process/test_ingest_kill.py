"""`kill -9` at random points of an ingest: every document is wholly old or wholly new, and the next ingest completes.

EDGE_KILL_POINTS and EDGE_KILL_SEED make it a long run (scripts/qualify), EDGE_KILL_REPORT names a file for its figures.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge import lexical
from edge.errors import StoreMismatch
from edge.ingest.chunk import embedding_text
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Searcher
from edge.store.upkeep import problems

POINTS = int(os.environ.get("EDGE_KILL_POINTS", "12"))
COMMAND_POINTS = max(3, POINTS // 20)  # of the command itself, which loads a bundle each time
SEED = int(os.environ.get("EDGE_KILL_SEED", "2"))
FILES = 24
WORDS = ("alpha", "beta", "gamma")

# The process that is killed: the real ingest with an embedder that takes its time but needs no bundle.
PROGRAM = """
import hashlib, sys, time
from pathlib import Path
import numpy as np
from edge.config import ChunkConfig, IngestConfig
from edge.ingest.index import chunker_id, ingest
from edge.store.chunks import Store

def embed(text):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vector = np.random.default_rng(seed).normal(size=16).astype(np.float32)
    return vector / np.linalg.norm(vector)

class Embedder:
    def embed_documents(self, texts):
        time.sleep(0.002 * len(texts))
        return np.stack([embed(text) for text in texts])
    def count_tokens(self, text):
        return len(text.split())

if __name__ == "__main__":
    config = IngestConfig(chunk=ChunkConfig(40, 8), language="en")
    index, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with Store.open(index, create=True, fingerprint="f", dim=16, chunker=chunker_id(config.chunk)) as store:
        started = False
        def tell(progress):
            global started
            if not started:
                started = True
                print("ready", flush=True)
        report = ingest([folder], store, Embedder(), config, prune=True, on_progress=tell)
    print(f"done {report.added + report.replaced} {len(report.failed)}", flush=True)
"""


@pytest.mark.process
def test_killed_anywhere_nothing_is_half(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    program, folder, index = tmp_path / "program.py", tmp_path / "documents", tmp_path / "index.db"
    program.write_text(PROGRAM)
    folder.mkdir()
    write(folder, WORDS[0], rng)
    command = [sys.executable, str(program), str(index), str(folder)]
    whole_sec = timed(command)
    embed = vectors_of(program)
    killed = 0
    for point in range(POINTS):
        write(folder, WORDS[(point + 1) % len(WORDS)], rng)
        killed += kill_at(command, rng.uniform(0, whole_sec))
        with Store.open(index) as store:
            assert problems(store) == []
            check(store, folder, embed)
        if point % 10 == 9:
            print(f"{point + 1} of {POINTS} points, {killed} while it ran", file=sys.stderr)
    assert killed >= POINTS * 2 // 3, "the process was too quick to be killed: the test says little"
    assert run(command).split()[2] == "0"
    assert run(command).startswith("done 0 0")
    with Store.open(index) as store:
        stored = {source: store.document(source).text for source in store.known()}  # type: ignore[union-attr]
        assert stored == {str(file): file.read_text() for file in folder.iterdir()}
        assert problems(store) == []
    if report := os.environ.get("EDGE_KILL_REPORT"):
        figures = {"killed_while_running": killed, "uninterrupted_sec": round(whole_sec, 2), "documents": FILES}
        figures["command_points"] = 2 * COMMAND_POINTS  # killed and interrupted, in the tests below
        Path(report).write_text(json.dumps(figures), encoding="utf-8")


def write(folder: Path, word: str, rng: random.Random) -> None:
    """All files in a new version, of other lengths; each sentence says which."""
    for number in range(FILES):
        sentences = rng.randint(1, 60)
        text = " ".join(f"Sentence {n} of file {number} is {word}{number}." for n in range(sentences))
        (folder / f"{number}.txt").write_text(text)


def timed(command: list[str]) -> float:
    """Run to the end; seconds from the first document on."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        started = time.monotonic()
        assert process.stdout.readline() == f"done {FILES} 0\n"
        return time.monotonic() - started


def kill_at(command: list[str], delay_sec: float) -> bool:
    """Start, wait until documents are being read, and kill after the delay; whether it was still running."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(delay_sec)
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


def check(store: Store, folder: Path, embed) -> None:  # type: ignore[no-untyped-def]
    """Each document's text is of one version, and so are its chunks, its words and its vectors."""
    searcher = Searcher(store)
    assert list(store.known()) == sorted(str(file) for file in folder.iterdir())
    for source in store.known():
        document = store.document(source)
        assert document is not None
        number = Path(source).stem
        versions = {word for word in WORDS if f"{word}{number}." in document.text}
        assert len(versions) == 1
        word = versions.pop()
        where = Filter.parse([f"source={source}"])
        everything = [id for id, _ in searcher.dense(np.ones(16, np.float32), 999, where)]
        found = searcher.found(everything)
        assert sorted(searcher.lexical(lexical.terms(f"{word}{number}", "en"), 999, where)) == sorted(everything)
        for id, chunk in found.items():
            assert chunk.chunk.text == document.text[chunk.chunk.start : chunk.chunk.end]
            vector = embed(embedding_text(document.title, chunk.chunk))
            assert searcher.cosines(vector, [id])[id] == pytest.approx(1, abs=1e-5)


def vectors_of(program: Path):  # type: ignore[no-untyped-def]
    import runpy

    return runpy.run_path(str(program))["embed"]


def run(command: list[str]) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.splitlines()[-1]


@pytest.mark.model
@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_command_itself_stopped_anywhere(how: signal.Signals, default_bundle: Path, tmp_path: Path) -> None:
    """`edge ingest` of the samples with the real bundle: what is in is sound and whole, and the next run completes."""
    samples = Path(__file__).resolve().parents[2] / "samples" / "documents"
    edge = [sys.executable, "-c", "from edge.cli import main; main()", "ingest", str(samples), "--json"]
    whole, index = tmp_path / "whole.db", tmp_path / "index.db"

    def command(target: Path) -> list[str]:
        return [*edge, "--bundle", str(default_bundle), "--index", str(target)]

    started = time.monotonic()
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
    whole_sec = time.monotonic() - started
    chunks = chunks_of(whole)
    rng = random.Random(SEED)
    for _ in range(COMMAND_POINTS):
        before = chunks_of(index)
        process = subprocess.Popen(command(index), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0.2 * whole_sec, 0.9 * whole_sec))
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        assert b"Traceback" not in errors
        found = chunks_of(index)
        assert found.items() <= chunks.items()  # each document wholly in, or not at all
        if process.returncode == -signal.SIGINT:  # Python itself: before its handler is set, or after it was removed
            assert found in (before, chunks)
        else:
            assert process.returncode in (0, -signal.SIGKILL if how == signal.SIGKILL else 130)
    subprocess.run(command(index), check=True, stdout=subprocess.DEVNULL)
    assert chunks_of(index) == chunks


def chunks_of(index: Path) -> dict[str, int]:
    """Chunks of each document in a sound index; nothing where it was never finished."""
    if not index.exists() or not index.stat().st_size:
        return {}
    try:
        with Store.open(index) as store:
            assert problems(store) == []
            rows = store._rows("SELECT source, count(chunks.id) FROM documents LEFT JOIN chunks "
                               "ON document_id = documents.id GROUP BY source")  # fmt: skip
            return dict(rows)
    except StoreMismatch:  # stopped before the first transaction
        return {}
