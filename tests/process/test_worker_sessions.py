"""Several requests in one engine process: the same answers as alone, and no request waits for another's answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import bundle
from edge.engine.base import EngineOptions, Guidance, Message, Sampling, Session
from edge.engine.worker import WorkerEngine
from edge.errors import EdgeError, EngineError, UsageError
from edge.types import Token

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTIONS = ("What is the capital of Norway?", "Name three colours.", "Why is the sky blue?")
LONG = "The gateway logs an event each time a valve opens. " * 40


@pytest.fixture(scope="module")
def engine(default_bundle: Path) -> Iterator[WorkerEngine]:
    loaded = bundle.load(default_bundle)
    model = loaded.manifest.model
    options = EngineOptions(context_tokens=1024, sessions=3, draft_tokens=6)
    template = bundle.chat_template(loaded)
    engine = WorkerEngine(loaded.path / model.path, template, model.stop_tokens, options)
    yield engine
    engine.close()


def prompt(engine: WorkerEngine, text: str) -> list[int]:
    return engine.encode(engine.render([Message("user", text)]))


class Reader(threading.Thread):
    """Reads a session to its end, and notes when each token came."""

    def __init__(self, session: Session) -> None:
        super().__init__(daemon=True)
        self.session = session
        self.tokens: list[Token] = []
        self.times: list[float] = []
        self.error: EdgeError | None = None

    def run(self) -> None:
        try:
            for token in self.session:
                self.tokens.append(token)
                self.times.append(time.monotonic())
        except EdgeError as error:
            self.error = error

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.tokens) < count and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(self.tokens) >= count


def start(engine: WorkerEngine, ids: list[int], max_tokens: int = 24, **sampling: object) -> Reader:
    reader = Reader(engine.start(ids, Sampling(max_tokens=max_tokens, **sampling)))  # type: ignore[arg-type]
    reader.start()
    return reader


def join(*readers: Reader) -> None:
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive()
        if reader.error is not None:
            raise reader.error


def alone(engine: WorkerEngine, ids: list[int], max_tokens: int = 24) -> list[int]:
    return [token.id for token in engine.start(ids, Sampling(max_tokens=max_tokens))]


def test_each_gets_what_it_gets_alone_and_in_turns(engine: WorkerEngine) -> None:
    asked = [prompt(engine, question) for question in QUESTIONS]
    expected = [alone(engine, ids) for ids in asked]
    readers = [start(engine, ids) for ids in asked]
    join(*readers)
    assert [reader.ids for reader in readers] == expected
    assert max(reader.times[0] for reader in readers) < min(reader.times[-1] for reader in readers)


def test_a_long_prompt_lets_the_others_go_on(engine: WorkerEngine) -> None:
    writing = start(engine, prompt(engine, "Tell a story."), 200)
    writing.wait_for(3)
    before = len(writing.tokens)
    reading = start(engine, [9, *prompt(engine, LONG)], 2)  # its first token is another's: nothing kept serves it
    reading.wait_for(1)
    assert len(writing.tokens) >= before + 5, "a piece of the prompt, a token, a piece, ..."
    writing.session.cancel()
    join(writing, reading)


def test_one_more_than_fits_waits_in_order_and_text_is_encoded_meanwhile(engine: WorkerEngine) -> None:
    ids = prompt(engine, "Tell a story.")
    running = [start(engine, ids, 150, temperature=1.0, seed=seed) for seed in range(3)]
    for reader in running:
        reader.wait_for(1)
    waiting = [start(engine, prompt(engine, QUESTIONS[0]), 1)]
    time.sleep(0.05)
    waiting.append(start(engine, prompt(engine, QUESTIONS[1]), 1))
    cancelled = engine.start(ids, Sampling(max_tokens=150))
    gone = Reader(cancelled)
    gone.start()
    time.sleep(0.05)
    cancelled.cancel()  # before its turn
    join(gone)
    assert gone.tokens == [] and cancelled.stats.finish_reason == "cancelled"
    engine.load()
    assert all(reader.is_alive() for reader in running) and not waiting[0].tokens
    running[0].session.cancel()
    join(*waiting)
    assert waiting[0].times[0] < waiting[1].times[0]
    assert running[0].session.stats.finish_reason == "cancelled"
    for reader in running[1:]:
        reader.session.cancel()
    join(*running)


def test_a_cancel_and_a_reader_that_leaves_end_their_own_alone(engine: WorkerEngine) -> None:
    asked = [prompt(engine, question) for question in QUESTIONS]
    expected = alone(engine, asked[2])
    leaving = iter(engine.start(asked[0], Sampling(max_tokens=24)))
    next(leaving)
    cancelled, kept = start(engine, asked[1], 100), start(engine, asked[2])
    cancelled.wait_for(2)
    cancelled.session.cancel()
    leaving.close()  # type: ignore[attr-defined]
    join(cancelled, kept)
    assert len(cancelled.tokens) < 20 and cancelled.session.stats.finish_reason == "cancelled"
    assert kept.ids == expected


def test_a_reader_that_does_not_read_holds_up_nobody(engine: WorkerEngine) -> None:
    asked = [prompt(engine, question) for question in QUESTIONS]
    expected = [alone(engine, ids, 20) for ids in asked]
    slow = iter(engine.start(asked[0], Sampling(max_tokens=20)))
    got = [next(slow).id]
    others = [start(engine, ids, 20) for ids in asked[1:]]
    join(*others)
    assert [reader.ids for reader in others] == expected[1:]
    assert alone(engine, asked[1], 20) == expected[1]
    got += [token.id for token in slow]  # all that was kept for it
    assert got == expected[0]


def test_a_refused_schema_is_one_request_s_error(engine: WorkerEngine) -> None:
    writing = start(engine, prompt(engine, QUESTIONS[2]), 40)
    writing.wait_for(1)
    with pytest.raises(UsageError, match="uniqueItems"):
        list(engine.start([5, 6], Sampling(guidance=Guidance("json_schema", '{"uniqueItems": true}'))))
    guided = Sampling(max_tokens=8, stop=("-",), logprobs=2, guidance=Guidance("regex", "[0-9]{3}-[0-9]{3}"))
    tokens = list(engine.start([5, 6], guided))
    text = "".join(token.text for token in tokens)
    assert len(text) == 3 and text.isdigit()
    assert all(token.logprobs is not None and len(token.logprobs.top) == 2 for token in tokens)
    join(writing)


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP], ids=lambda s: s.name)
def test_the_end_of_the_process_is_told_to_each_and_a_new_one_answers(
    engine: WorkerEngine, what: signal.Signals
) -> None:
    ids = prompt(engine, QUESTIONS[0])
    expected = alone(engine, ids)
    readers = [start(engine, prompt(engine, "Tell a story."), 200) for _ in range(4)]  # one waits
    for reader in readers[:3]:
        reader.wait_for(2)
    assert engine.pid is not None
    os.kill(engine.pid, what)
    for reader in readers:
        reader.join(10)
        assert isinstance(reader.error, EngineError) and "ask again" in str(reader.error)
    assert alone(engine, ids) == expected


def test_close_ends_all_of_them(engine: WorkerEngine) -> None:
    readers = [start(engine, prompt(engine, "Tell a story."), 200) for _ in range(2)]
    for reader in readers:
        reader.wait_for(2)
    engine.close()
    for reader in readers:
        reader.join(10)
        assert isinstance(reader.error, EngineError) and "closed while it was in use" in str(reader.error)
    assert engine.pid is None
