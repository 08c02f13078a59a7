"""The engine's process: killed, stopped and cancelled at every stage of a request, and ended with its parent."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import bundle
from edge.engine.base import EngineOptions, Message, Sampling
from edge.engine.worker import WorkerEngine
from edge.errors import EngineError, PromptTooLong
from edge.memory import tree_memory

pytestmark = [pytest.mark.model, pytest.mark.process]

LONG = "The gateway logs an event each time a valve opens. " * 60


def open_engine(folder: Path, silence_sec: float = 120.0) -> WorkerEngine:
    loaded = bundle.load(folder)
    model = loaded.manifest.model
    options = EngineOptions(context_tokens=1024, prefill_chunk_tokens=64)
    return WorkerEngine(
        loaded.path / model.path, bundle.chat_template(loaded), model.stop_tokens, options, silence_sec=silence_sec
    )


@pytest.fixture
def engine(default_bundle: Path) -> Iterator[WorkerEngine]:
    engine = open_engine(default_bundle)
    yield engine
    engine.close()


def prompt(engine: WorkerEngine, text: str = "What is the capital of Norway?") -> list[int]:
    return engine.encode(engine.render([Message("system", "Be brief."), Message("user", text)]))


def answer(engine: WorkerEngine, token_ids: list[int], max_tokens: int = 24) -> str:
    return "".join(token.text for token in engine.start(token_ids, Sampling(max_tokens=max_tokens)))


def test_it_answers_and_unloading_gives_all_memory_back(engine: WorkerEngine) -> None:
    before = tree_memory(os.getpid())
    assert engine.pid is None
    assert "Oslo" in answer(engine, prompt(engine))
    loaded = tree_memory(os.getpid())
    assert len(loaded.processes) == len(before.processes) + 1
    assert loaded.private_bytes > before.private_bytes + 50 * 2**20
    engine.close()
    after = tree_memory(os.getpid())
    assert engine.pid is None and len(after.processes) == len(before.processes)
    assert after.private_bytes < before.private_bytes + 4 * 2**20
    assert "Oslo" in answer(engine, prompt(engine))  # and it comes back


def test_load_need_not_be_waited_for(engine: WorkerEngine) -> None:
    engine.load(wait=False)
    assert "Oslo" in answer(engine, prompt(engine))


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP], ids=lambda s: s.name)
@pytest.mark.parametrize("stage", ["idle", "loading", "prefill", "decode"])
def test_a_process_that_dies_or_stops_costs_one_request(engine: WorkerEngine, what: signal.Signals, stage: str) -> None:
    short, long = prompt(engine), prompt(engine, LONG)

    def strike(delay_sec: float = 0.0) -> None:
        time.sleep(delay_sec)
        assert engine.pid is not None
        os.kill(engine.pid, what)

    try:
        if stage == "idle":
            strike()
            time.sleep(0.1)
            answer(engine, short)
        elif stage == "loading":
            engine.load(wait=False)
            strike()
            answer(engine, short)
        elif stage == "prefill":
            engine.load()
            late = threading.Thread(target=strike, args=(0.05,))
            late.start()
            answer(engine, long)
            late.join()
        else:
            stream = iter(engine.start(short, Sampling(max_tokens=24)))
            next(stream)
            strike()
            list(stream)
    except EngineError as error:
        assert "ask again" in str(error)
    else:
        assert stage in ("idle", "loading") and what is not signal.SIGSTOP  # nobody was waiting: a new one answered
    assert "Oslo" in answer(engine, short)


def test_what_a_dying_process_was_told_is_told_to_the_next(engine: WorkerEngine) -> None:
    expected = engine.encode("hello")
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGSTOP)  # it hears nothing, and looks as if it ran
    killing = threading.Timer(0.1, os.kill, (engine.pid, signal.SIGKILL))
    killing.start()
    assert engine.encode("hello") == expected
    killing.join()
    engine.load()
    for _ in range(5):  # as soon as it is killed, whenever that is noticed
        os.kill(engine.pid, signal.SIGKILL)
        engine.load(wait=False)
        assert engine.encode("hello") == expected


def test_a_silent_process_is_given_up(default_bundle: Path) -> None:
    engine = open_engine(default_bundle, silence_sec=0.01)  # starting it takes longer than that
    with pytest.raises(EngineError, match="SIGKILL"):
        engine.encode("hello")
    assert engine.pid is None
    engine.close()


def test_a_damaged_model_is_an_error_and_the_process_goes_on(default_bundle: Path, tmp_path: Path) -> None:
    loaded = bundle.load(default_bundle)
    source = loaded.path / loaded.manifest.model.path
    for path in source.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model.onnx").unlink()
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    engine = WorkerEngine(tmp_path, bundle.chat_template(loaded), (2,), EngineOptions(context_tokens=128))
    ids = engine.encode("Hello")
    pid = engine.pid
    for _ in range(2):
        with pytest.raises(EngineError, match="edge bundle verify"):
            answer(engine, ids)
    assert engine.pid == pid
    engine.close()


def test_a_prompt_of_exactly_the_context_is_refused_and_one_token_less_is_not(engine: WorkerEngine) -> None:
    full = (prompt(engine, LONG) * 2)[:1024]
    with pytest.raises(PromptTooLong):
        engine.start(full, Sampling())
    assert len(list(engine.start(full[:-1], Sampling(max_tokens=8)))) <= 1


def test_cancel_works_at_once_in_prefill_and_in_decode(engine: WorkerEngine) -> None:
    short, long = prompt(engine), prompt(engine, LONG)
    engine.load()
    waits = []
    for number in range(24):
        in_prefill = number % 2 == 0
        # another first token each time: a kept prefix would leave no prefill to cancel
        session = engine.start([10 + number, *long] if in_prefill else short, Sampling(max_tokens=200))
        cancelled = threading.Event()
        started: list[float] = []

        def cancel(session=session, started=started, cancelled=cancelled) -> None:  # type: ignore[no-untyped-def]
            started.append(time.perf_counter())
            session.cancel()
            cancelled.set()

        if in_prefill:
            timer = threading.Timer(0.02 + 0.01 * (number % 5), cancel)
            timer.start()
            tokens = list(session)
            cancelled.wait(5)
            assert tokens == []
        else:
            for _ in session:
                if not started:
                    cancel()
        waits.append(time.perf_counter() - started[0])
        assert session.stats.finish_reason == "cancelled"
    session = engine.start([9, *long], Sampling(max_tokens=1))
    list(session)
    piece_sec = session.stats.ttft_sec * 64 / len(long)  # as fast as this machine is now, whatever else it does
    p95 = statistics.quantiles(waits, n=20)[-1]
    assert p95 < max(0.1, 3 * piece_sec), f"p95 of {p95:.3f} s, a piece takes {piece_sec:.3f} s"
    assert "Oslo" in answer(engine, short)


def test_an_idle_process_uses_no_cpu(engine: WorkerEngine) -> None:
    answer(engine, prompt(engine))
    time.sleep(0.3)

    def ticks() -> int:
        fields = Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime, stime

    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 2 * os.sysconf("SC_CLK_TCK") * 0.01


@pytest.mark.parametrize("from_thread", [False, True], ids=["main", "thread"])
def test_it_dies_with_its_parent_even_while_stopped(default_bundle: Path, from_thread: bool) -> None:
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from edge import bundle\n"
        "from edge.engine.base import EngineOptions\n"
        "from edge.engine.worker import WorkerEngine\n"
        "loaded = bundle.load(Path(sys.argv[1])); model = loaded.manifest.model\n"
        "engine = WorkerEngine(loaded.path / model.path, '', (), EngineOptions(context_tokens=64))\n"
        "def run(): engine.encode('hello'); print(engine.pid, flush=True)\n"
        + ("t = threading.Thread(target=run); t.start(); t.join()\n" if from_thread else "run()\n")
        + "time.sleep(0.5); assert engine.pid; print('alive', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(default_bundle)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as lines:
        child = int(lines.readline())
        assert lines.readline() == "alive\n"  # the end of the thread that started it did not end it
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
