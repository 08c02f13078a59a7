"""The engine in a process of its own: unloading ends it, and a fault in native code costs what is running, no more.

The child is started on first use and again after a crash; `edge.engine.link` is the way to it, `edge.engine.child` its
side. Several threads may run sessions at the same time: the child goes through those that it has memory for in turns,
a token of each, and the others wait in order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.engine.base import EngineOptions, Message, Sampling, Stats, check_adapter, check_fits, check_sampling
from edge.engine.channel import unpack_token
from edge.engine.link import Link, Pending
from edge.errors import BudgetExceeded, EngineError
from edge.types import Token


class WorkerEngine:
    """The engine of `edge.engine.base` over a child process. `EngineOptions.sessions` requests run at the same time.

    :param folder: genai_config.json, tokenizer and weights.
    :param template: the chat template's text (Jinja).
    :param adapters: files of adapters by name.
    :param silence_sec: a child that says nothing for so long, loading included, is taken for hung and killed.
    """

    def __init__(
        self,
        folder: Path,
        template: str,
        stop_tokens: Sequence[int],
        options: EngineOptions,
        *,
        adapters: Mapping[str, Path] | None = None,
        silence_sec: float = 120.0,
    ) -> None:
        self.context_tokens, self._options = options.context_tokens, options
        self._adapters = {name: str(path.absolute()) for name, path in (adapters or {}).items()}
        self._settings = {
            "folder": str(folder.absolute()),
            "template": template,
            "stop_tokens": list(stop_tokens),
            "options": asdict(options),
            "adapters": self._adapters,
        }
        self._silence_sec = silence_sec
        self._lock = threading.Lock()  # of the two below, never held while the child is waited for
        self._link: Link | None = None
        self._loading: Pending | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, or None where none runs."""
        link = self._link
        return link.pid if link is not None and link.is_running else None

    def encode(self, text: str) -> list[int]:
        return list(self._answer({"do": "encode", "text": text})["token_ids"])

    def render(self, messages: Sequence[Message]) -> str:
        return str(self._answer({"do": "render", "messages": [asdict(turn) for turn in messages]})["text"])

    def load(self, *, wait: bool = True) -> None:
        """Load the weights now rather than on the first request.

        :param wait: false lets the child load while this process does something else.
        :raises EngineError: they are damaged, or memory ran out; without `wait` the next call says so, unless the child
            ended over it: then another one loads them when it is asked for tokens.
        """
        if self._loading is None or wait:
            loading = self._request({"do": "load"})
            with self._lock:
                self._loading = loading
        if wait:
            self._settle(lost=True)

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> WorkerSession:
        check_sampling(sampling)
        if sampling.guidance is not None and not self._options.guided:
            raise BudgetExceeded(
                "answers held to a schema take memory that is not set aside: set engine.guided to true in the "
                "configuration, and if that is not enough, raise memory_budget"
            )
        check_adapter(adapter, self._adapters)
        check_fits(len(token_ids), self.context_tokens)
        return WorkerSession(self, token_ids, sampling, adapter)

    def close(self) -> None:
        """End the child: all its memory goes back to the system, and running sessions end with an EngineError.

        The next use starts another.
        """
        with self._lock:
            link, self._link, self._loading = self._link, None, None
        if link is not None:
            link.close()

    def _request(self, message: dict[str, Any]) -> Pending:
        """Send a request to the child; to a new one where there is none, or it ended in the meantime."""
        self._settle()
        with self._lock:
            if self._link is None or not self._link.is_running:
                self._link = Link(self._settings, self._silence_sec)
            link = self._link
        return link.request(message)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that changes nothing: where the child ends meanwhile, from another one, once.

        It may have ended a moment before, over nothing that this request has to do with.
        """
        pending = self._request(message)
        try:
            return pending.receive()
        except EngineError:
            if not pending.is_lost:
                raise
            return self._request(message).receive()

    def _settle(self, *, lost: bool = False) -> None:
        """Wait for the answer to a `load` that was not waited for; `lost`: it is an error too where the child ended."""
        with self._lock:
            loading, self._loading = self._loading, None
        if loading is None:
            return
        try:
            loading.receive()
        except EngineError:
            if lost or not loading.is_lost:
                raise


class WorkerSession:
    """One request in the child. See `edge.engine.base.Session`."""

    def __init__(self, engine: WorkerEngine, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> None:
        self._engine, self._token_ids, self._sampling = engine, list(token_ids), sampling
        self._adapter = adapter
        self._is_cancelled = False
        self._pending: Pending | None = None  # while it runs
        self._stats: Stats | None = None

    def cancel(self) -> None:
        self._is_cancelled = True
        if (pending := self._pending) is not None:
            pending.cancel()

    @property
    def stats(self) -> Stats:
        return self._stats or Stats(len(self._token_ids), 0, 0, 0.0, 0.0, "cancelled")

    def __iter__(self) -> Iterator[Token]:
        if self._is_cancelled:
            return
        sampling = asdict(self._sampling)
        request = {"do": "generate", "token_ids": self._token_ids, "sampling": sampling, "adapter": self._adapter}
        pending = self._pending = self._engine._request(request)
        if self._is_cancelled:  # while it was sent
            pending.cancel()
        try:
            while "stats" not in (message := pending.receive()):
                for packed in message["tokens"]:
                    if not self._is_cancelled:
                        yield unpack_token(packed)
        except GeneratorExit:  # whoever reads the stream has had enough
            self.cancel()
            while "stats" not in (message := pending.receive()):
                pass
            self._set_stats(message)
            raise
        else:
            self._set_stats(message)
        finally:
            self._pending = None

    def _set_stats(self, message: dict[str, Any]) -> None:
        if message["stats"] is not None:  # it had its turn before it was cancelled
            self._stats = Stats(**message["stats"])
