"""llama.cpp as a peer: the programs that scripts/bench_peer_llamacpp.sh built, on the same base weights as the bundle.

- llama-server serves: timed over HTTP like any peer, with the same token ids as ours.
- llama-bench computes and does nothing else: the strictest figure for prefill and decode, and for memory.
- llama-cli is a whole process, from start to first token.
"""

from __future__ import annotations

import json
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.bench.openai import timing_of
from edge.bench.process import Peaks, first_output_sec, output_of, running, watched
from edge.bench.side import Timing
from edge.bench.stream import Endpoint
from edge.bench.text import Sample
from edge.errors import EdgeError, PeerError
from edge.files import cache

BUILD = "run scripts/bench_peer_llamacpp.sh in a checkout of edge-slm (about ten CPU minutes)"
_START_SEC = 60.0
_PORT_TRIES = 3


@dataclass(frozen=True, slots=True)
class Build:
    """A build of llama.cpp with the base weights of one bundle in one format."""

    folder: Path
    gguf: Path
    format: str
    threads: int
    timeout_sec: float

    @property
    def version(self) -> str:
        return self.folder.name.removeprefix("llama.cpp-")

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)


def find(base_sha256: str, format: str, threads: int, timeout_sec: float) -> Build:
    """The newest build in the cache, with the weights that a bundle was made from.

    :param base_sha256: of the bundle's base model.
    :raises PeerError: it is not built, or not with these weights or this format; says what to run.
    """
    builds = sorted((cache() / "peer").glob("llama.cpp-*/bin/llama-server"), key=_version)
    if not builds:
        raise PeerError(f"llama.cpp is not built on this machine: {BUILD}")
    folder = builds[-1].parents[1]
    weights = folder / "gguf" / base_sha256[:16]
    made = sorted(path.stem for path in weights.glob("*.gguf"))
    if not made:
        raise PeerError(f"llama.cpp has no weights from the base of this bundle ({base_sha256[:16]}): {BUILD}")
    if format not in made:
        raise PeerError(f"llama.cpp has no weights in the format {format!r}, only in {', '.join(made)}; to add one, "
                        f"scripts/bench_peer_llamacpp.sh --formats {format}")  # fmt: skip
    return Build(folder, weights / f"{format}.gguf", format, threads, timeout_sec)


def _version(server: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", server.parents[1].name))


class LlamaServer:
    """A running llama-server; made by `serving`."""

    def __init__(self, build: Build, endpoint: Endpoint, pid: int, load_sec: float) -> None:
        self.name = f"llama-server {build.format}"
        self.build, self.pid, self.load_sec = build, pid, load_sec
        self._endpoint = endpoint

    def generate(self, prompt: Sample, max_tokens: int, *, reuse: bool = False) -> Timing:
        """See `Side`: the native route takes token ids; of the samplers, only the choice of the best token is run."""
        body = {
            "prompt": list(prompt.token_ids),
            "n_predict": max_tokens,
            "stream": True,
            "cache_prompt": reuse,
            "temperature": 0,
            "top_k": 1,
            "samplers": ["top_k"],
        }
        arrivals: list[float] = []
        text: list[str] = []
        said: dict[str, Any] = {}
        ended = False
        for arrived, event in self._endpoint.post("/completion", body):
            if event.get("error"):
                raise PeerError(f"{self.name} reports an error: {str(event['error'])[:200]}")
            if event.get("stop") is True:
                ended = True
                if isinstance(event.get("timings"), dict):  # its count of tokens takes in the one that ends the turn
                    said = {"timings": {key: n for key, n in event["timings"].items() if key != "predicted_n"}}
            elif event.get("tokens"):
                arrivals.append(arrived)
                text.append(str(event.get("content", "")))
        return timing_of(self.name, arrivals, "".join(text), said, ended, prompt, max_tokens)

    def forget(self) -> None:
        """Nothing to do: without `cache_prompt` it computes the whole prompt."""


@contextmanager
def serving(build: Build, context_tokens: int, arguments: tuple[str, ...] = ()) -> Iterator[LlamaServer]:
    """Start llama-server, wait until it is ready, and end it with the block.

    :raises PeerError: it does not start; shows the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        log = Path(folder) / "llama-server.log"
        for attempt in range(1, _PORT_TRIES + 1):
            port = _free_port()
            command = [
                build.program("llama-server"), "-m", str(build.gguf), "-c", str(context_tokens), "-np", "1",
                "-t", str(build.threads), "--host", "127.0.0.1", "--port", str(port), *arguments,
            ]  # fmt: skip
            started = time.perf_counter()
            with running(command, log, launcher=True) as process:
                endpoint = Endpoint(f"http://127.0.0.1:{port}", build.timeout_sec)
                while time.perf_counter() - started < _START_SEC and process.poll() is None:
                    if _is_healthy(port):
                        yield LlamaServer(build, endpoint, process.pid, time.perf_counter() - started)
                        return
                    time.sleep(0.01)
            text = log.read_text(encoding="utf-8", errors="replace")
            if "bind" not in text or attempt == _PORT_TRIES:  # another program may have taken the port meanwhile
                break
        raise PeerError(f"llama-server does not start: {' '.join(text.split())[-600:] or 'it printed nothing'}")


def bench(build: Build, prompt_tokens: tuple[int, ...], new_tokens: int) -> dict[str, float]:
    """Tokens per second by llama-bench, one repetition: `prefill_256`, ..., `decode`.

    :raises PeerError: it fails, or prints something else than its JSON.
    """
    command = _bench_command(build, prompt_tokens, new_tokens)
    try:
        tests = json.loads(output_of([*command, "-o", "json"], build.timeout_sec * (1 + len(prompt_tokens))))
        found = {
            f"prefill_{test['n_prompt']}" if test["n_prompt"] else "decode": float(test["avg_ts"]) for test in tests
        }
    except EdgeError as error:
        raise PeerError(str(error)) from error
    except (ValueError, TypeError, KeyError) as error:
        raise PeerError(f"llama-bench printed no results that can be read: {error}") from error
    if set(found) != {"decode", *(f"prefill_{tokens}" for tokens in prompt_tokens)} or min(found.values()) <= 0:
        raise PeerError(f"llama-bench printed other results than were asked for: {found}")
    return found


def bench_memory(build: Build, prompt_tokens: int, new_tokens: int, interval_sec: float) -> Peaks:
    """The memory of llama-bench for one prompt and one answer.

    :raises PeerError: it fails.
    """
    try:
        return watched(_bench_command(build, (prompt_tokens,), new_tokens), interval_sec, build.timeout_sec)
    except EdgeError as error:
        raise PeerError(str(error)) from error


def cold_start_sec(build: Build, question: str, system: str) -> float:
    """Seconds from starting llama-cli to the first token of its answer.

    :raises PeerError: it gives none.
    """
    command = [
        build.program("llama-cli"), "-m", str(build.gguf), "-t", str(build.threads), "-c", "512", "-n", "8",
        "--temp", "0", "--single-turn", "--simple-io", "--no-warmup", "--no-show-timings", "--color", "off",
        "-sys", system, "-p", question,
    ]  # fmt: skip
    try:
        return first_output_sec(command, build.timeout_sec, after=f"> {question}".encode())
    except EdgeError as error:
        raise PeerError(str(error)) from error


def _bench_command(build: Build, prompt_tokens: tuple[int, ...], new_tokens: int) -> list[str]:
    lengths = ",".join(map(str, prompt_tokens))
    return [
        build.program("llama-bench"), "-m", str(build.gguf), "-t", str(build.threads), "-r", "1",
        "-p", lengths, "-n", str(new_tokens),
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int) -> bool:
    try:
        Endpoint(f"http://127.0.0.1:{port}", 5.0).get("/health")
    except PeerError:
        return False
    return True
