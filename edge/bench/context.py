"""What a suite works with: our box, the peers that are still standing, prompts, and a place to report progress."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from edge.bench.config import BenchConfig
from edge.bench.llamacpp import Build, LlamaServer, serving
from edge.bench.process import EDGE
from edge.bench.result import PeerResult, SuiteResult
from edge.bench.side import OwnSide, Side
from edge.bench.text import TextPool, read_text
from edge.box import Box
from edge.config import to_yaml
from edge.errors import PeerError

P = ParamSpec("P")
T = TypeVar("T")
_WARM_UP_TOKENS = 300  # more than is read in one piece, so that nothing is done for the first time afterwards


class Track(Protocol):
    """Passes items on and shows how far it is."""

    def __call__(self, items: Iterable[T], description: str, /) -> Iterable[T]: ...


@dataclass
class Peer:
    """One peer of a run. What it offers is not None; once it has failed, it is asked for nothing more."""

    result: PeerResult
    open: Callable[[], Side] | None = None  # gives the side that generates, on first use
    server: Build | None = None  # what `open` starts, where it is llama-server
    bench: Build | None = None  # llama-bench
    cli: Build | None = None  # llama-cli
    _side: Side | None = None

    @property
    def name(self) -> str:
        return self.result.name

    def side(self) -> Side | None:
        """What generates, or None; a server is started here, once.

        :raises PeerError: it cannot be reached or started.
        """
        if self._side is None and self.open is not None:
            self._side = self.open()
        return self._side

    @property
    def failed(self) -> bool:
        return self.result.error is not None

    def suite(self, name: str) -> SuiteResult:
        return self.result.suites.setdefault(name, SuiteResult())


@dataclass
class Context:
    """See the top of this file. `scratch` is a folder that goes when the run ends."""

    box: Box
    config: BenchConfig
    scratch: Path
    track: Track
    warn: Callable[[str], None]
    peers: list[Peer] = field(default_factory=list)
    opened: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def pool(self) -> TextPool:
        return TextPool(read_text(self.config.text), self.box.engine.encode, self.config.seed)

    @cached_property
    def own(self) -> OwnSide:
        return OwnSide(self.box.engine, self.pool.draw(_WARM_UP_TOKENS))

    @contextmanager
    def without_speculation(self) -> Iterator[Context]:
        """The same on a box of its own that does not guess ahead."""
        config = self.box.config
        plain = dataclasses.replace(config, engine=dataclasses.replace(config.engine, draft_tokens=0))
        with Box(self.box.bundle_path, self.box.index_path, plain) as box:
            box.admit()
            yield dataclasses.replace(self, box=box)

    @cached_property
    def config_file(self) -> Path:
        """The box's configuration as a file, for processes of our own."""
        path = self.scratch / f"config-{self.box.config.engine.draft_tokens}.yaml"
        path.write_text(to_yaml(self.box.config), encoding="utf-8")
        return path

    def files(self) -> list[Path]:
        """The files of the bundle, and of the copy of its weights that was prepared for this machine."""
        folders = {self.box.bundle_path.resolve(), self.box.model_folder.resolve()}
        return sorted({path for folder in folders for path in folder.rglob("*") if path.is_file()})

    def random(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, so that one suite draws the same whatever ran before it."""
        return random.Random(f"{self.config.seed} {purpose}")

    def sides(self) -> Iterator[tuple[Peer | None, Side]]:
        """Ours (with None) and then each peer that generates and has not failed: one turn of A B A B."""
        yield None, self.own
        for peer in self.standing():
            side = self.attempt(peer, peer.side)
            if side is not None:
                yield peer, side

    def standing(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.failed]

    def attempt(self, peer: Peer | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call something of a peer; where that fails, the peer is out and the run goes on with ours. None is ours."""
        try:
            return work(*args, **kwargs)
        except PeerError as error:
            if peer is None:
                raise
            peer.result.error = str(error)
            self.warn(f"{peer.name} is out: {error}")
            return None

    def serve(self, build: Build) -> LlamaServer:
        """Start llama-server; it is ended with the run."""
        peer = self.config.peer
        return self.opened.enter_context(serving(build, peer.context_tokens, peer.server_arguments))

    def subject(self, token_ids: tuple[int, ...], max_tokens: int) -> tuple[list[str], bytes]:
        """The command of our bare generation and what it reads on stdin."""
        command = [sys.executable, "-m", "edge.bench.subject", str(self.box.bundle_path), str(self.config_file)]
        return command, json.dumps({"token_ids": token_ids, "max_tokens": max_tokens}).encode()

    def edge(self, *arguments: str) -> list[str]:
        """The command line with this box's bundle, index and configuration."""
        box = self.box
        places = ["--bundle", str(box.bundle_path), "--index", str(box.index_path), "--config", str(self.config_file)]
        return [*EDGE, arguments[0], *places, *arguments[1:]]
