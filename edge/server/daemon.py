"""The daemon's process: what it listens on, how it starts, reloads and ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from edge import bundle as bundles
from edge.box import default_bundle, default_index, read_config
from edge.config import EdgeConfig
from edge.errors import ConfigError, EdgeError
from edge.files import home
from edge.server import keys as key_file
from edge.server.app import build
from edge.server.backend import Backend
from edge.server.boxes import backend_of, box_settings
from edge.server.documents import Documents
from edge.server.guard import Rules
from edge.server.journal import Journal, Lines
from edge.server.keys import Keys
from edge.server.listen import BACKLOG, listening
from edge.server.lock import sole
from edge.server.mover import Mover
from edge.server.notify import Notifier
from edge.server.protocol import HeadTimeout
from edge.server.service import Service
from edge.server.traces import Done, Traces
from edge.server.watch import Watch

_TICK_SEC = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `edge serve` was told; None for the home folder's own."""

    bundle: Path | None
    index: Path | None
    config: Path | None
    state: Path | None
    settings: EdgeConfig
    has_budget: bool  # the memory budget was given on the command line
    load: bool
    insecure: bool


def run(options: Options) -> int:
    """Serve until told to end; returns the exit code.

    :raises EdgeError: it cannot start: no bundle, the address is taken or not safe, another daemon on the index.
    """
    notifier = Notifier.from_environment()
    state = (options.state or home() / "daemon").absolute()
    index = (options.index or home() / "index.db").absolute()
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        index.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be made: {error.strerror}; name another with --state") from None
    keys = Keys.open(state / key_file.FILE)
    with sole(index), listening(options.settings.server, keys, insecure=options.insecure) as (sockets, shown):
        daemon = Daemon(options, state, index, keys, notifier)
        return asyncio.run(daemon.serve(sockets, shown))


class Daemon:
    """One run of the daemon."""

    def __init__(self, options: Options, state: Path, index: Path, keys: Keys, notifier: Notifier) -> None:
        self._options, self._state, self._index = options, state, index
        self._keys, self._notifier, self._journal = keys, notifier, Journal(state)
        self._settings = options.settings
        self._reload = asyncio.Event()
        self._watch = Watch(self._settings.server.watch_requests, self._settings.server.watch_sec)
        self._going_back: asyncio.Task[None] | None = None
        self._has_made_room = False

    async def serve(self, sockets: list[socket.socket], shown: str) -> int:
        config = self._settings.server
        logging.getLogger().addHandler(Lines(self._journal))
        bundle = self._current_bundle()
        backend = self._backend(bundle)
        self._service = Service(bundle, config, backend)
        self._service.on_ended = self._watched
        self._documents = Documents(self._state, backend.settings, config.max_upload_bytes)
        self._documents.before, self._documents.after = self._make_room, self._give_room
        self._mover = Mover(home(), self._documents, self._journal.event, self._is_full, self._reload.set)
        if self._follows_home:
            self._mover.look()
            if backend.settings.index != str(self._index):  # it may have ended just after the index was switched
                self._documents.recheck()
        rules = Rules(frozenset(config.allowed_hosts), needs_key=False)
        self._service.on_done.append(self._log_texts)
        if (traces := Traces.of(config)) is not None:
            self._service.on_done.append(traces.done)
        self._app: Starlette = build(
            self._service, self._documents, self._keys, rules, self._journal, self._state, traces
        )
        server = _Server(
            uvicorn.Config(
                self._app,
                http=HeadTimeout,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=config.connections,
                backlog=BACKLOG,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=max(1, round(config.drain_sec) + 1),
                ssl_certfile=config.tls_certificate,
                ssl_keyfile=config.tls_key,
            )
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, server)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        works = (self._documents.work(), self._mover.work(), self._tick(), self._reloads())
        tasks = [asyncio.create_task(work) for work in works]
        if self._options.load:
            await self._service.ask("load")
        self._journal.event("listening", address=shown, bundle=bundle.digest, model=bundle.manifest.name)
        self._notifier.ready(f"listening on {shown}")
        try:
            await server.serve(sockets)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._service.backend.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)
            self._journal.event("ended")
        return 0

    # -- signals ------------------------------------------------------------------------------------------------

    def _end(self, server: uvicorn.Server) -> None:
        """Take no more requests, let those that run end; the second signal ends at once."""
        if server.should_exit:
            server.force_exit = True
            return
        self._app.state.is_draining = True
        self._notifier.stopping()
        self._journal.event("draining", running=self._service.gate.running, waiting=self._service.gate.waiting)
        server.should_exit = True
        asyncio.get_running_loop().call_later(self._settings.server.drain_sec, self._cut)

    def _cut(self) -> None:
        """What still runs gets an error as its last event."""
        self._service.cut("the daemon is ending: ask again when it is back")

    async def _reloads(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._notifier.reloading()
            try:
                await self._reload_now()
            except EdgeError as error:  # what runs goes on as it is
                self._journal.event("reload_failed", error=str(error))
            self._notifier.ready()

    async def _reload_now(self) -> None:
        """Swap to the configuration and bundle as they are now; requests wait meanwhile, none is refused for it.

        :raises EdgeError: they cannot be used; the daemon goes on with what it has.
        """
        options, service = self._options, self._service
        told = options.settings  # what the command line says holds on
        settings = read_config(options.config)
        settings = dataclasses.replace(
            settings,
            memory_budget=told.memory_budget if options.has_budget else settings.memory_budget,
            server=dataclasses.replace(settings.server, listen=told.server.listen),
        )
        bundle = self._current_bundle()
        service.gate.hold()
        try:
            try:
                async with asyncio.timeout(settings.server.drain_sec):
                    await service.gate.idle()
            except TimeoutError:
                service.cut("the daemon was told to load another bundle, and this took too long: ask again")
            async with service.still(settings.server.drain_sec):
                before = await self._swap(bundle, settings)
        finally:
            service.gate.release()
        if self._follows_home:
            self._mover.look()
        self._journal.event("reloaded", bundle=bundle.digest)
        if bundle.digest != before[0].digest and self._going_back is None:
            self._watch.begin(time.monotonic())
        self._going_back = None

    async def _swap(self, bundle: bundles.Bundle, settings: EdgeConfig) -> tuple[bundles.Bundle, EdgeConfig]:
        """Use another bundle, if it can be loaded where one was loaded; returns what was used before."""
        service = self._service
        before = service.bundle, self._settings
        was_loaded = service.backend.pid is not None
        await self._use(bundle, settings)
        try:
            if was_loaded:
                await service.ask("load")
        except EdgeError as error:
            await self._use(*before)
            await self._go_back(bundle.digest, f"it cannot be loaded: {error}")
            raise
        return before

    async def _use(self, bundle: bundles.Bundle, settings: EdgeConfig) -> None:
        """Have another box serve, once the one before has ended."""
        service = self._service
        await service.backend.close()
        self._settings = settings
        service.bundle, service.config = bundle, settings.server
        service.backend = self._backend(bundle)
        is_other = self._documents.settings.index != service.backend.settings.index
        self._documents.settings = service.backend.settings
        if is_other:
            self._documents.recheck()

    def _watched(self, error: str, first_sec: float | None) -> None:
        """A request ended; where the bundle that was swapped in proves bad, the one before serves again."""
        reason = self._watch.ended(time.monotonic(), error, first_sec)
        if reason is not None:
            self._going_back = asyncio.create_task(self._go_back(self._service.bundle.digest, reason))

    async def _go_back(self, bad: str, reason: str) -> None:
        """Have the release before serve again, where the bundle is one that was installed, and is still the last."""
        from edge.deploy.releases import rollback

        if self._options.bundle is not None or not self._is_current(bad):
            self._journal.event("bad_bundle", bundle=bad, reason=reason)
            return
        try:
            target = await asyncio.to_thread(rollback, home())
        except EdgeError as failed:
            self._journal.event("rollback_failed", bundle=bad, reason=reason, error=str(failed))
            return
        self._journal.event("rolled_back", bundle=bad, reason=reason, to=target)
        self._journal.audit("rolled_back", bundle=bad, reason=reason, to=target)
        self._reload.set()

    @property
    def _follows_home(self) -> bool:
        """Whether it was told neither a bundle nor an index, so that both may be switched under it."""
        return self._options.bundle is None and self._options.index is None

    def _is_current(self, digest: str) -> bool:
        """Whether a bundle is still what the box is to serve; one that cannot even be read is."""
        try:
            return self._current_bundle().digest == digest
        except EdgeError:
            return True

    def _current_bundle(self) -> bundles.Bundle:
        """Where the link `current` points now: it may be switched while this daemon goes on with what it has."""
        return bundles.load((self._options.bundle or default_bundle()).resolve())

    # -- while it runs ------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Feed the watchdog while all is well, and give the model's memory back when nobody has asked for long."""
        while True:
            await asyncio.sleep(_TICK_SEC)
            service = self._service
            if service.is_well:
                self._notifier.watchdog()
            if sessions := service.backend.state.get("sessions"):
                service.gate.resize(sessions)
            idle = time.monotonic() - service.used
            if service.backend.pid is not None and service.is_idle and idle > service.keep_sec:
                await service.backend.close()
                self._journal.event("unloaded", idle_sec=round(idle))

    def _is_full(self) -> bool:
        """Whether an ingest does not fit beside the model."""
        return not self._service.backend.state.get("ingest_fits", True)

    async def _make_room(self) -> None:
        """Before an ingest: where it does not fit beside the model, the model goes until it is done."""
        service = self._service
        if not self._is_full():
            return
        self._has_made_room = True
        service.gate.hold()
        await service.gate.idle()
        await service.backend.close()

    async def _give_room(self) -> None:
        if self._has_made_room:
            self._has_made_room = False
            self._service.gate.release()

    def _log_texts(self, one: Done, request: str) -> None:
        if self._settings.server.log_prompts:
            self._journal.texts(one, request)

    def _box_ended(self, reason: str) -> None:
        self._journal.event("box_ended", reason=reason)

    def _backend(self, bundle: bundles.Bundle) -> Backend:
        index = self._index if self._options.index is not None else default_index(bundle.path).absolute()
        settings = box_settings(self._settings, bundle, index, self._state / "documents")
        return backend_of(self._settings, settings, self._box_ended)


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
