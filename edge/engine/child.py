"""The engine's process: serves the requests of `edge.engine.worker`, several at the same time in one thread.

Run as `python -m edge.engine.child SETTINGS`, a JSON object. It ends when its parent does, or closes the wire.

A request has an `id`, and so has each message about it. The last message has an answer, `stats` or an `error`.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.engine.base import EngineOptions, Guidance, Message, Sampling
from edge.engine.channel import Channel, pack_token
from edge.engine.genai import GenaiEngine
from edge.engine.session import GenaiSession
from edge.errors import EdgeError
from edge.memory import release_heap
from edge.process import die_with
from edge.types import Token


def main(settings: dict[str, Any]) -> None:
    """Serve until the wire closes."""
    die_with(settings["parent"])
    channel = Channel(socket.socket(fileno=settings["wire"]))
    server = _Server(settings, channel)
    try:
        while True:
            server.turn()
    except (EOFError, ConnectionError):
        return


@dataclass(frozen=True, slots=True)
class _Run:
    """A request that generates."""

    id: int
    session: GenaiSession
    steps: Iterator[list[Token]]


class _Server:
    def __init__(self, settings: dict[str, Any], channel: Channel) -> None:
        self._settings, self._channel = settings, channel
        self._engine: GenaiEngine | None = None
        self._most: int = settings["options"]["sessions"]
        self._waiting: deque[dict[str, Any]] = deque()
        self._running: deque[_Run] = deque()  # the first is next

    def turn(self) -> None:
        """One step of one request, after whatever else is asked for; without a request, wait for one.

        :raises EOFError: the wire is closed.
        """
        busy = bool(self._running or self._waiting)
        while (message := self._channel.receive(0 if busy else None)) is not None:
            self._serve(message)
            busy = True
        while self._waiting and len(self._running) < self._most:
            self._begin(self._waiting.popleft())
        if self._running:
            self._step(self._running.popleft())

    def _serve(self, request: dict[str, Any]) -> None:
        try:
            match request["do"]:
                case "encode":
                    self._send(request["id"], token_ids=self._opened().encode(request["text"]))
                case "render":
                    turns = [Message(**turn) for turn in request["messages"]]
                    self._send(request["id"], text=self._opened().render(turns))
                case "load":
                    self._load()
                    self._send(request["id"], loaded=True)
                case "generate":
                    self._waiting.append(request)
                case "cancel":
                    self._cancel(request["id"])
        except EdgeError as error:
            self._fail(request["id"], error)

    def _opened(self) -> GenaiEngine:
        if self._engine is None:
            self._engine = _engine(self._settings)
        return self._engine

    def _load(self) -> None:
        engine = self._opened()
        if not self._running:  # else they have loaded it, and wait
            engine.load()
            release_heap()

    def _begin(self, request: dict[str, Any]) -> None:
        try:
            sampling = request["sampling"]
            guidance = Guidance(**sampling["guidance"]) if sampling["guidance"] else None
            sampling = Sampling(**sampling | {"stop": tuple(sampling["stop"]), "guidance": guidance})
            session = self._opened().start(request["token_ids"], sampling, adapter=request["adapter"])
        except EdgeError as error:
            self._fail(request["id"], error)
            return
        self._running.appendleft(_Run(request["id"], session, session.steps()))  # its first step is due

    def _step(self, run: _Run) -> None:
        try:
            tokens = next(run.steps, None)
            if tokens is not None:
                self._send(run.id, tokens=[pack_token(token) for token in tokens])  # none: a sign of life
            if tokens is None or run.session.is_ended:
                for _ in run.steps:  # its generator is kept, or given back
                    pass
                self._send(run.id, stats=asdict(run.session.stats))
            else:
                self._running.append(run)
        except EdgeError as error:
            self._fail(run.id, error)

    def _cancel(self, number: int) -> None:
        """End a request before its next step; one that has ended in the meantime is not there any more."""
        for run in [run for run in self._running if run.id == number]:
            run.session.cancel()
            self._running.remove(run)
            self._running.appendleft(run)  # it ends before the next step of any
        for request in [request for request in self._waiting if request["id"] == number]:
            self._waiting.remove(request)
            self._send(number, stats=None)

    def _send(self, number: int, **message: Any) -> None:
        self._channel.send({"id": number} | message)

    def _fail(self, number: int, error: EdgeError) -> None:
        self._send(number, error=type(error).__name__, message=str(error))


def _engine(settings: dict[str, Any]) -> GenaiEngine:
    options = EngineOptions(**settings["options"])
    adapters = {name: Path(path) for name, path in settings["adapters"].items()}
    engine = GenaiEngine(Path(settings["folder"]), settings["template"], settings["stop_tokens"], options, adapters)
    release_heap()  # reading the vocabulary leaves twice its size behind
    return engine


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
