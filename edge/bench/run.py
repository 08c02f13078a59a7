"""A whole run: suites on our box, in turns with peers, to one `Result`. What a peer spoils is the peer's part only."""

from __future__ import annotations

import datetime
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge.bench import SUITES, llamacpp
from edge.bench.config import BenchConfig
from edge.bench.context import Context, Peer, Track
from edge.bench.environment import conditions, environment
from edge.bench.openai import OpenAiPeer
from edge.bench.result import PeerResult, Result, SuiteResult
from edge.bench.stream import Endpoint
from edge.box import Box
from edge.config import to_plain
from edge.errors import PeerError, UsageError

LLAMA_CPP = "llama.cpp"
NEED_DOCUMENTS = {"rag", "retrieval", "memory"}


def run(
    box: Box,
    config: BenchConfig,
    suites: Sequence[str],
    peers: Sequence[str],
    *,
    peer_model: str | None,
    track: Track,
    warn: Callable[[str], None],
) -> Result:
    """Measure. The result is not complete where a peer failed; its errors say why.

    :param peers: "llama.cpp" or addresses.
    :param peer_model: the model's name at an address; None takes the first that is listed there.
    :raises EdgeError: ours cannot be measured: no bundle, no index, no room in memory, a text that is too short.
    :raises PeerError: an address is none.
    """
    box.admit()
    result = Result(
        environment=environment(box.bundle),
        settings={"suites": list(suites), "peers": list(peers), "threads": box.threads, **to_plain(config)},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    result.settings["edge"] = to_plain(box.config)
    result.environment["providers"] = {"model": box.provider, "embedder": "CPUExecutionProvider"}
    before = conditions()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        context = Context(box, config, Path(scratch), track, warn)
        with context.opened:
            _check(context, suites)
            for name in peers:
                context.peers += _llama_cpp(context) if name == LLAMA_CPP else [_at(context, name, peer_model)]
            for peer in context.standing():
                if peer.server is None:
                    context.attempt(peer, peer.side)  # a typing error in an address is told at once, not after minutes
            for suite in [name for name in SUITES if name in suites]:
                result.suites[suite] = _suite(suite)(context)
        result.settings["text_sha256"] = context.pool.sha256
    result.environment["conditions"] = {"before": before, "after": conditions()}
    result.peers = [peer.result for peer in context.peers]
    result.errors = [f"{peer.name}: {peer.result.error}" for peer in context.peers if peer.failed]
    result.complete = not result.errors
    result.divide()
    return result


def _check(context: Context, suites: Sequence[str]) -> None:
    """Say at once what would otherwise be found after minutes.

    :raises EdgeError: there is no text to cut prompts from, no index to ask about, or a prompt that does not fit.
    """
    _ = context.pool
    if set(suites) & NEED_DOCUMENTS:
        _ = context.box.store
    longest, room = max(context.config.latency.prompt_tokens), context.box.engine.context_tokens - 1
    if "latency" in suites and longest > room:
        raise UsageError(
            f"a prompt of {longest} tokens does not fit a context of {room + 1} with an answer: "
            f"ask for at most {room} (--prompt-tokens, latency.prompt_tokens)"
        )


def _suite(name: str) -> Callable[[Context], SuiteResult]:
    found: Callable[[Context], SuiteResult] = importlib.import_module(f"edge.bench.suites.{name}").run
    return found


def _at(context: Context, url: str, model: str | None) -> Peer:
    timeout = context.config.peer.timeout_sec
    Endpoint(url, timeout)  # an address that is none ends the run before it begins
    result = PeerResult(url, "url", {"model": model})

    def connect() -> OpenAiPeer:
        peer = OpenAiPeer(url, timeout, model)
        result.details |= {"model": peer.model, "route": peer.route}
        return peer

    return Peer(result, open=connect)


def _llama_cpp(context: Context) -> list[Peer]:
    """Its three programs for each format, each a peer of its own; one that failed where it is not built."""
    base, peers = context.box.bundle.manifest.model.base.sha256, []
    for format in context.config.peer.formats:
        try:
            build = llamacpp.find(base, format, context.box.threads, context.config.peer.timeout_sec)
        except PeerError as error:
            peers.append(Peer(PeerResult(f"{LLAMA_CPP} {format}", LLAMA_CPP, {"format": format}, error=str(error))))
            context.warn(f"{LLAMA_CPP} {format} is out: {error}")
            continue
        details: dict[str, Any] = {
            "format": format,
            "version": build.version,
            "threads": build.threads,
            "weights_bytes": build.gguf.stat().st_size,
        }

        def named(program: str, details: dict[str, Any] = details, format: str = format) -> PeerResult:
            return PeerResult(f"{program} {format}", LLAMA_CPP, {"program": program, **details})

        peers += [  # llama-bench first: what both measure is divided by the faster one, which serves nobody
            Peer(named("llama-bench"), bench=build),
            Peer(named("llama-server"), open=lambda build=build: context.serve(build), server=build),  # type: ignore[misc]
            Peer(named("llama-cli"), cli=build),
        ]
    return peers
