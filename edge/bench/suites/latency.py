"""Suite `latency`: how long a bare generation takes, stage by stage, and what it takes of memory.

tokenize     text to token ids
load         the engine ready for a request, from a parent that runs already: its process started, weights loaded
prefill      prompt tokens per second, by the engine's own clock where it has one
ttft         from handing over the request to the first token
inter_token  between one token and the next
decode       tokens per second after the first
cold_start   a whole process, from its start to its first token (`edge ask --mode model`; llama-cli)
*_bytes      peaks of a process that loads, reads one prompt, answers and ends (llama-bench does the same)

Without speculation, unless `latency.speculation` says so. Metrics without a length are of the first of
`latency.prompt_tokens`. The sides take turns at every repetition, and all of them get the same prompts, no two of which
begin alike.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from edge.bench import llamacpp
from edge.bench.context import Context, Peer
from edge.bench.figures import Figures, largest, rounded, spread
from edge.bench.process import Peaks, evict, first_output_sec, in_page_cache, watched
from edge.bench.result import SuiteResult
from edge.bench.side import Timing
from edge.prompt import CLOSED_BOOK

NAME = "latency"
QUESTION = "What is the capital of Norway?"
_TIMEOUT_SEC = 300.0
_NO_PROCESS = "only its address is known, not its process"
_MEMORY = ("rss_peak_bytes", "private_peak_bytes", "file_backed_peak_bytes")
_COLD = ("cold_start_sec_p50", "cold_start_sec_p95", "cold_start_from_disk_sec_p50")


def run(context: Context) -> SuiteResult:
    """Measure ours and, in turns, every peer; the peers' part goes into their results."""
    if context.config.latency.speculation:
        return _run(context)
    with context.without_speculation() as plain:
        return _run(plain)


def _run(context: Context) -> SuiteResult:
    own = SuiteResult()
    _cold_starts(context, own)
    _memory(context, own)
    _load(context, own)
    _tokenize(context, own)
    _generation(context, own)
    for peer in context.peers:
        _explain(peer)
    return own


def _cold_starts(context: Context, own: SuiteResult) -> None:
    """First of all, since no process may hold the weights mapped when they are to be read from the disk."""
    command = context.edge("ask", "--mode", "model", QUESTION)
    warm: dict[str, list[float]] = defaultdict(list)
    disk: list[float] = []
    starts = context.config.latency.cold_starts
    for count in context.track(range(starts + 1 if starts else 0), "cold start"):
        seconds = first_output_sec(command, _TIMEOUT_SEC)
        if count:  # the first one read the files
            warm["edge"].append(seconds)
        for peer in context.standing():
            if (build := peer.cli) is not None:
                taken = context.attempt(peer, llamacpp.cold_start_sec, build, QUESTION, CLOSED_BOOK)
                if count and taken is not None:
                    warm[peer.name].append(taken)
        if count:
            files = context.files()
            evict(files)
            if not in_page_cache(files):
                disk.append(first_output_sec(command, _TIMEOUT_SEC))
    own.metrics |= spread("cold_start_sec", warm["edge"], (50, 95)) | spread("cold_start_from_disk_sec", disk)
    own.samples |= {"cold_start_sec": _round(warm["edge"]), "cold_start_from_disk_sec": _round(disk)}
    if not starts:
        own.absent("latency.cold_starts is 0", *_COLD)
    elif not disk:
        own.absent("the kernel keeps the bundle in its page cache: another process maps it", _COLD[2])
    for peer in context.peers:
        if samples := warm.get(peer.name):
            suite = peer.suite(NAME)
            suite.metrics |= spread("cold_start_sec", samples, (50, 95))
            suite.samples["cold_start_sec"] = _round(samples)


def _memory(context: Context, own: SuiteResult) -> None:
    settings = context.config.latency
    tokens, interval = settings.prompt_tokens[0], context.config.memory.sample_interval_sec
    ours: list[Peaks] = []
    theirs: dict[str, list[Peaks]] = defaultdict(list)
    for _ in context.track(range(context.config.memory.runs), "memory of a bare generation"):
        command, request = context.subject(context.pool.draw(tokens).token_ids, settings.new_tokens)
        ours.append(watched(command, interval, _TIMEOUT_SEC, request))
        for peer in context.standing():
            if (build := peer.bench) is not None:
                peaks = context.attempt(peer, llamacpp.bench_memory, build, tokens, settings.new_tokens, interval)
                if peaks is not None:
                    theirs[peer.name].append(peaks)
    own.metrics |= memory_figures(ours)
    own.series["memory_over_time"] = course(ours[-1])
    for peer in context.peers:
        if peer.name in theirs:
            suite = peer.suite(NAME)
            suite.metrics |= memory_figures(theirs[peer.name])
            suite.series["memory_over_time"] = course(theirs[peer.name][-1])


def _load(context: Context, own: SuiteResult) -> None:
    engine, samples = context.box.engine, []
    for _ in context.track(range(context.config.repetitions), "load"):
        engine.close()
        started = time.perf_counter()
        engine.load()
        samples.append(time.perf_counter() - started)
    own.metrics |= spread("load_sec", samples)
    own.samples["load_sec"] = _round(samples)


def _tokenize(context: Context, own: SuiteResult) -> None:
    encode, samples, rates = context.box.engine.encode, [], []
    for _ in range(context.config.repetitions):
        text = context.pool.unread(context.config.latency.prompt_tokens[0])
        started = time.perf_counter()
        count = len(encode(text))
        samples.append(time.perf_counter() - started)
        rates.append(count / samples[-1])
    own.metrics |= spread("tokenize_sec", samples) | spread("tokenize_tok_per_sec", rates)
    own.samples["tokenize_sec"] = _round(samples)


def _generation(context: Context, own: SuiteResult) -> None:
    settings, warmup = context.config.latency, context.config.warmup
    timings: dict[str, dict[int, list[Timing]]] = defaultdict(lambda: defaultdict(list))
    benches: dict[str, list[dict[str, float]]] = defaultdict(list)
    for count in context.track(range(warmup + context.config.repetitions), "generation"):
        for tokens in settings.prompt_tokens:
            prompt = context.pool.draw(tokens)
            for peer, side in context.sides():
                timing = context.attempt(peer, side.generate, prompt, settings.new_tokens)
                if timing is not None and count >= warmup:
                    timings[peer.name if peer else "edge"][tokens].append(timing)
        for peer in context.standing():
            if (build := peer.bench) is not None:
                rates = context.attempt(peer, llamacpp.bench, build, settings.prompt_tokens, settings.new_tokens)
                if rates is not None and count >= warmup:
                    benches[peer.name].append(rates)
    _put(own, timings["edge"])
    for peer in context.peers:
        if peer.name in timings:
            _put(peer.suite(NAME), timings[peer.name])
        if peer.name in benches:
            _put_bench(peer.suite(NAME), benches[peer.name], settings.prompt_tokens)


def _put(suite: SuiteResult, timings: dict[int, list[Timing]]) -> None:
    first = next(iter(timings.values()))
    gaps = [gap for timing in first for gap in timing.inter_token_sec]
    suite.metrics |= spread("ttft_sec", [t.ttft_sec for t in first], (50, 95))
    suite.metrics |= spread("inter_token_sec", gaps, (50, 95, 99)) | _rates("", first)
    for tokens, found in timings.items():
        suite.metrics |= _rates(f"{tokens}_", found)
    if suite.metrics["decode_tok_per_sec_p50"] is None:
        suite.absent("every answer was shorter than 8 tokens", "decode_tok_per_sec_p50")
    suite.samples["generation"] = [sample_of(tokens, timing) for tokens, found in timings.items() for timing in found]
    suite.series["by_prompt_tokens"] = [
        {"prompt_tokens": tokens, **_rates("", found)} for tokens, found in sorted(timings.items())
    ]


def _rates(prefix: str, timings: list[Timing]) -> Figures:
    return (
        spread(f"prefill_{prefix}tok_per_sec", [t.prefill_tok_per_sec for t in timings])
        | spread(f"ttft_{prefix}sec", [t.ttft_sec for t in timings])
        | spread(f"decode_{prefix}tok_per_sec", [t.decode_tok_per_sec for t in timings])
    )


def _put_bench(suite: SuiteResult, runs: list[dict[str, float]], lengths: tuple[int, ...]) -> None:
    for tokens in lengths:
        rates = [run[f"prefill_{tokens}"] for run in runs]
        suite.metrics |= spread(f"prefill_{tokens}_tok_per_sec", rates)
        if tokens == lengths[0]:
            suite.metrics |= spread("prefill_tok_per_sec", rates)
    suite.metrics |= spread("decode_tok_per_sec", [run["decode"] for run in runs])
    suite.samples["generation"] = runs


def sample_of(tokens: int, timing: Timing) -> dict[str, Any]:
    """One timing as data."""
    return {
        "prompt_tokens_wanted": tokens,
        "prompt_tokens": timing.prompt_tokens,
        "cached_tokens": timing.cached_tokens,
        "completion_tokens": timing.completion_tokens,
        "prefill_sec": rounded(timing.prefill_sec) if timing.prefill_sec else None,
        "ttft_sec": rounded(timing.ttft_sec),
        "decode_sec": rounded(timing.decode_sec),
        "inter_token_sec": _round(timing.inter_token_sec),
    }


def memory_figures(peaks: list[Peaks], prefix: str = "") -> Figures:
    """The largest of each peak over several runs."""
    return (
        largest(f"{prefix}rss_peak_bytes", [peak.rss_bytes for peak in peaks])
        | largest(f"{prefix}private_peak_bytes", [peak.private_bytes for peak in peaks])
        | largest(f"{prefix}file_backed_peak_bytes", [peak.file_bytes for peak in peaks])
    )


def course(peaks: Peaks, points: int = 400) -> list[dict[str, float]]:
    """Memory over time, at most so many points, the peak among them."""
    step = max(1, len(peaks.series) // points)
    top = max(range(len(peaks.series)), key=lambda at: peaks.series[at][2])
    kept = sorted({*range(0, len(peaks.series), step), top})
    return [
        {"sec": round(sec, 3), "private_bytes": private, "rss_bytes": rss}
        for sec, private, rss in (peaks.series[at] for at in kept)
    ]


def _explain(peer: Peer) -> None:
    """Say why a peer lacks what ours has."""
    suite = peer.suite(NAME)
    if peer.bench is None and peer.cli is None:
        suite.absent(_NO_PROCESS, *_MEMORY, *_COLD[:2])


def _round(samples: list[float]) -> list[float]:
    return [rounded(sample) for sample in samples]
