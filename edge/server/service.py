"""What the routes share: the models by name, and requests on their way through the gate to the box and back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from edge import bundle as bundles
from edge.config import ServerConfig
from edge.errors import EdgeError, EngineError
from edge.server.backend import Backend, result_of
from edge.server.errors import HttpError
from edge.server.gate import Full, Gate
from edge.server.metrics import Metrics
from edge.server.traces import Done

T = TypeVar("T")

RAG = "+rag"
"""At the end of a model's name: answer from the documents."""
PATIENCE_SEC = 130.0
"""Without a sign of life for so long the box is taken for stuck; its model is given up before (engine.silence_sec)."""
DEFAULT = "edge"
"""A name that always stands for the bundle's model."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request."""

    id: str  # of the key, else the address: requests of one wait behind each other
    namespace: str  # whose documents it sees beside the owner's
    request: str = ""  # id of the request


@dataclass(frozen=True, slots=True)
class Model:
    """What a model's name in a request stands for."""

    name: str
    rag: bool
    adapter: str | None


class Service:
    """The box as the routes see it."""

    def __init__(self, bundle: bundles.Bundle, config: ServerConfig, backend: Backend) -> None:
        self.bundle, self.config, self.backend = bundle, config, backend
        self.gate = Gate(config.sessions, config.queue, config.queue_sec)
        self.metrics = Metrics(self)
        self.on_ended: Callable[[str, float | None], None] | None = None  # error, and time to the first token
        self.on_done: list[Callable[[Done, str], None]] = []  # told of all that the box did, with the request's id
        self.used = time.monotonic()  # when a request last had to do with the box
        self._keep_sec: float | None = None  # as the last request asked for, where it did
        self._streams: set[Stream] = set()
        self._asking = 0
        self._may_ask, self._none_asks = asyncio.Event(), asyncio.Event()
        self._may_ask.set()

    @property
    def is_idle(self) -> bool:
        """Whether no request has to do with the box."""
        return not self._streams and not self._asking

    @property
    def keep_sec(self) -> float:
        """After the last request the model's memory is given back; infinity: never."""
        if self._keep_sec is not None:
            return self._keep_sec
        return self.config.keep_alive_sec or math.inf

    def keep_for(self, seconds: float | None) -> None:
        """Keep the model for so long after this request, until the next one; None: as configured."""
        self._keep_sec = seconds

    @property
    def is_well(self) -> bool:
        """Whether the model makes progress, or has nothing to do."""
        return not self.gate.running or time.monotonic() - self.used < PATIENCE_SEC

    def cut(self, reason: str) -> None:
        """End every request that waits or runs, with an error that says why."""
        for stream in tuple(self._streams):
            stream.cut(reason)

    @property
    def model_names(self) -> list[str]:
        """Every name that a request may give, those that clients should list."""
        own = self.bundle.manifest
        names = [own.name, *(f"{own.name}:{adapter.name}" for adapter in own.model.adapters)]
        return [each for name in names for each in (name, name + RAG)]

    def model(self, name: str) -> Model:
        """What a name stands for.

        :raises HttpError: nothing (404); says which names there are.
        """
        plain = name.removesuffix(":latest")  # Ollama's clients add it
        base, _, adapter = plain.removesuffix(RAG).removesuffix(":latest").partition(":")
        known = {entry.name for entry in self.bundle.manifest.model.adapters}
        if base not in (self.bundle.manifest.name, DEFAULT) or (adapter and adapter not in known):
            names = ", ".join(self.model_names)
            raise HttpError(404, f"there is no model {name!r} here: there are {names}", "model_not_found")
        return Model(name, plain.endswith(RAG), adapter or None)

    async def open(self, caller: Caller, do: str, **request: Any) -> Stream:
        """Send a request that needs the model through the gate, and wait for its first message.

        :raises Full: the queue is.
        :raises EdgeError: the box cannot answer it.
        """
        stream = Stream(self, caller, do, request)
        self.keep_for(None)
        await stream.begin()
        return stream

    @asynccontextmanager
    async def still(self, seconds: float) -> AsyncIterator[None]:
        """A time in which the box may be closed: requests that need no generator have ended, and new ones wait.

        :param seconds: they get to end, at most.
        """
        self._may_ask.clear()
        try:
            self._none_asks.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while self._asking:
                        await self._none_asks.wait()
                        self._none_asks.clear()
            yield
        finally:
            self._may_ask.set()

    async def ask(self, do: str, **request: Any) -> Any:
        """A request that needs no generator; errors as the box raises them."""
        if do != "load":  # which is what a box is opened with
            await self._may_ask.wait()
        self.used = time.monotonic()
        self._asking += 1
        began, started, result, kind = time.time(), self.used, None, ""
        try:
            async with asyncio.timeout(self.config.request_sec):
                result = await result_of(self.backend.call(do, **request))
                return result
        except TimeoutError:
            kind = "Timeout"
            raise EngineError(f"it took longer than {self.config.request_sec:g} s (server.request_sec)") from None
        except EdgeError as error:
            kind = type(error).__name__
            raise
        finally:
            self._asking -= 1
            if not self._asking:
                self._none_asks.set()
            self.used = time.monotonic()
            self.done(do, request, began, 0.0, self.used - started, result, kind)

    def done(
        self, do: str, request: dict[str, Any], began: float, waited: float, seconds: float, result: Any, error: str,
        *, said: str = "", id: str = "",
    ) -> None:  # fmt: skip
        """Tell whoever wants to know what the box did."""
        if not self.on_done:
            return
        adapter = f":{request['adapter']}" if request.get("adapter") else ""
        model = f"{self.bundle.manifest.name}{adapter}{RAG if do == 'ask' else ''}"
        told = result if isinstance(result, dict) else {}
        one = Done(do, request, model, began, waited, seconds, told, error, said)
        for tell in self.on_done:
            tell(one, id)


class Stream:
    """One request on its way: iterate for its messages, the last of them with the key `result`.

    The messages are taken from the box as they come, whether they are read or not: a slow reader keeps nobody waiting.
    """

    def __init__(self, service: Service, caller: Caller, do: str, request: dict[str, Any]) -> None:
        self.queued_sec = 0.0
        self._service, self._caller, self._do, self._request = service, caller, do, request
        self._messages: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self._first: dict[str, Any] | None = None
        self._task = asyncio.create_task(self._pump())
        service._streams.add(self)
        self._task.add_done_callback(lambda _: service._streams.discard(self))

    def cut(self, reason: str) -> None:
        """End it; its reader gets an error."""
        self._messages.put_nowait(EngineError(reason))
        self._task.cancel()

    async def begin(self) -> None:
        try:
            self._first = await self._next()
        except BaseException:
            await self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        message = self._first
        while message is not None:
            yield message
            if "result" in message:
                return
            message = await self._next()

    async def result(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """All tokens, and the result."""
        messages = [message async for message in self]
        return messages[:-1], messages[-1]["result"]

    async def close(self) -> None:
        """Nobody reads it any more: what it holds becomes free."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _next(self) -> dict[str, Any]:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _pump(self) -> None:
        service = self._service
        started = time.monotonic()
        began, kind, first, waited = time.time(), "", None, 0.0
        result, said = None, ""
        try:
            async with asyncio.timeout(service.config.request_sec), service.gate.enter(self._caller.id) as waited:
                self.queued_sec = waited
                service.metrics.queued(waited)
                async for message in service.backend.call(self._do, namespace=self._caller.namespace, **self._request):
                    service.used = time.monotonic()
                    service.metrics.message(self._do, message, started + waited)
                    if first is None and "token" in message:
                        first = service.used - started - waited
                    said += message.get("token", "")
                    result = message.get("result", result)
                    self._messages.put_nowait(message)
        except (EdgeError, Full) as error:
            kind = type(error).__name__
            self._messages.put_nowait(error)
        except TimeoutError:
            kind = "Timeout"
            limit = service.config.request_sec
            self._messages.put_nowait(EngineError(f"it took longer than {limit:g} s (server.request_sec)"))
        except asyncio.CancelledError:
            kind = "Cancelled"
            raise
        finally:
            service.used = time.monotonic()
            seconds = service.used - started
            service.metrics.ended(self._do, seconds, kind)
            service.done(
                self._do, self._request, began, waited, seconds, result, kind, said=said, id=self._caller.request
            )
            if service.on_ended is not None:
                service.on_ended(kind, first)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, and give it up when the client goes away.

    :raises HttpError: it did (499, which nobody reads).
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise HttpError(499, "the client went away")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
