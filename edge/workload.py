"""The fixed workload that a memory plan is held against: the longest prompt at full context, an ingest beside it.

`measure` starts both as processes of their own and watches them; the first is this module, run as
`python -m edge.workload SETTINGS` (a JSON object), which says after each step what its processes hold. Everything is
what a question does (box, index, embedder, engine), but for the prompt, which is cut to the token.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.config import to_yaml
from edge.errors import EngineError
from edge.memory import PeakSampler, TreeMemory, tree_memory

if TYPE_CHECKING:
    from edge.box import Box

QUESTION = "How is the gateway mounted, and which tool is needed for it?"
_SENTENCES = (
    "The gateway in cabinet {n} reads its meters every {n} seconds.",
    "Whoever opens cabinet {n} notes the date and the reading in the log.",
    "A lamp that blinks {n} times asks for a new certificate.",
    "The rail is cut to {n} millimetres and held by two screws.",
)
_DOCUMENTS, _DOCUMENT_SENTENCES = 60, 1500  # about 100 kB each: more than is embedded while a prompt is answered
_START_SEC = 120.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What the workload took, bytes."""

    groups: dict[str, int]  # by `Line.group`
    peak: TreeMemory
    tokens: int  # prompt and answer


def measure(box: Box) -> Measured:
    """Run the workload in real processes and measure it; takes about half a minute.

    :raises EngineError: it fails; the message has what it said.
    """
    with tempfile.TemporaryDirectory(prefix="edge-plan-") as name:
        folder = Path(name)
        _write_documents(folder / "documents")
        (folder / "config.yaml").write_text(to_yaml(box.config), encoding="utf-8")
        free = dataclasses.replace(box.config, memory_budget=None)  # the ingest is measured, not refused
        (folder / "ingest.yaml").write_text(to_yaml(free), encoding="utf-8")
        paths = [str(box.bundle_path.absolute()), str(box.index_path.absolute()), str(folder / "config.yaml")]
        with _ingest(box, folder) as ingest, _answering(paths) as answering:
            with PeakSampler(ingest.pid, answering.pid) as sampler:
                steps = _steps(answering)
            if ingest.poll() is not None:
                raise EngineError("the ingest of the workload ended before the answer did: measure on an idle machine")
    return _measured(steps, sampler.peak, box)


def main(bundle: str, index: str, config: str) -> None:
    """The side that answers: one step after the other, and after each a line on stdout with what is held."""
    from edge.box import Box
    from edge.engine.base import Sampling

    with Box.open(bundle=Path(bundle), index=Path(index), config=Path(config)) as box:
        plan = box.admit()
        _import_all()
        if box.index_path.exists():
            _ = box.store
        _say("parent")
        if box.index_path.exists():
            box.retrieve(QUESTION)
        text = "word " * box.embedder.max_tokens
        while box.embedder.count_tokens(text) > box.embedder.max_tokens:
            text = text[: -len("word ")]
        box.embedder.embed_documents([text])
        _say("embedder")
        token_ids = box.engine.encode(f"{QUESTION} " * (plan.use.context_tokens // 8))  # each has more tokens
        _say("worker")
        box.engine.load()
        _say("weights")
        for adapter in box.bundle.manifest.model.adapters:
            for _ in box.engine.start(token_ids[:4], Sampling(1), adapter=adapter.name):
                pass
        max_tokens = box.config.answer.max_tokens
        session = box.engine.start(token_ids[: plan.use.context_tokens - max_tokens], Sampling(max_tokens))
        for _ in session:
            if time.monotonic() - _said > _SAY_SEC:
                _say("session")
        _say("session", tokens=session.stats.prompt_tokens + session.stats.completion_tokens)
        _say("end")


def _import_all() -> None:
    """What a question needs in the end, before anything is loaded: so that a step measures what it is named for."""
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401

    import edge.answer
    import edge.embed
    import edge.retrieve  # noqa: F401


_said = 0.0
_SAY_SEC = 0.2


def _say(step: str, **more: int) -> None:
    global _said
    held = tree_memory(os.getpid())
    private = {str(process.pid): process.private_bytes for process in held.processes}
    print(json.dumps({"step": step, "pid": os.getpid(), "private": private} | more), flush=True)  # noqa: T201
    _said = time.monotonic()


def _write_documents(folder: Path) -> None:
    folder.mkdir()
    for document in range(_DOCUMENTS):
        numbers = range(document * _DOCUMENT_SENTENCES, (document + 1) * _DOCUMENT_SENTENCES)
        text = " ".join(_SENTENCES[n % len(_SENTENCES)].format(n=n) for n in numbers)
        (folder / f"{document}.txt").write_text(text, encoding="utf-8")


@contextmanager
def _started(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *arguments], text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _ingest(box: Box, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """An ingest into an index of its own, once it has stored its first document."""
    index = folder / "ingest.db"
    program = "from edge.cli import main; main()"
    call = ["-c", program, "ingest", str(folder / "documents"), "--bundle", str(box.bundle_path.absolute()),
            "--index", str(index), "--config", str(folder / "ingest.yaml"), "--json"]  # fmt: skip
    with _started(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + _START_SEC
        while not _has_documents(index):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise EngineError(f"the ingest of the workload failed: {process.communicate()[1].strip()}")
            time.sleep(0.1)
        yield process


def _has_documents(index: Path) -> bool:
    from edge.errors import StoreError
    from edge.store.chunks import Store

    try:
        with Store.open(index) as store:
            return bool(store.known())
    except StoreError:  # not made yet, or being made
        return False


@contextmanager
def _answering(paths: list[str]) -> Iterator[subprocess.Popen[str]]:
    with _started(["-m", "edge.workload", *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process


def _steps(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    steps: list[dict[str, Any]] = []
    for line in process.stdout:
        steps.append(json.loads(line))
        if steps[-1]["step"] == "end":
            return steps
    raise EngineError(f"the workload failed: {process.communicate()[1].strip()}")


def _measured(steps: list[dict[str, Any]], peak: TreeMemory, box: Box) -> Measured:
    """The steps' gains by group, and the files at the peak by folder."""
    own = str(steps[0]["pid"])
    parent = {step["step"]: step["private"][own] for step in steps}
    worker = {step["step"]: sum(step["private"].values()) - step["private"][own] for step in steps}
    session = max(sum(step["private"].values()) for step in steps if step["step"] == "session")
    weights = parent["weights"] + worker["weights"]
    groups = {
        "parent": parent["parent"],
        "embedder": parent["embedder"] - parent["parent"],
        "worker": worker["worker"],
        "weights": weights - parent["worker"] - worker["worker"],
        "session": session - weights,
        "ingest": 0,
        "parser": 0,
        "files of the model": 0,
        "files of the embedder": 0,
        "files of libraries": 0,
    }
    answering = {int(pid) for step in steps for pid in step["private"]}
    for process in peak.processes:
        if process.pid not in answering:
            groups["parser" if process.name == "edge.ingest.child" else "ingest"] += process.private_bytes
    embedder = box.bundle.path / box.bundle.manifest.embedder.path
    for path, size in peak.files.items():
        if Path(path).is_relative_to(embedder.resolve()):
            groups["files of the embedder"] += size
        elif path.endswith((".onnx", ".data", ".onnx_adapter")):
            groups["files of the model"] += size
        else:
            groups["files of libraries"] += size
    return Measured(groups, peak, max(step.get("tokens", 0) for step in steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
