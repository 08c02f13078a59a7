"""Suite `rag`: a question about the documents, stage by stage, with and without what a prefix cache can give.

embed, retrieve, pack, prefill, decode, cite, end_to_end    of a question asked cold
cold         nothing is cached: the engine was loaded anew
follow_up    another question on the same passages: all but the question can come from the cache
warm_prefix  a new question with other passages: the fixed template's start can come from the cache
*_ttft_ratio of the last two: ÷ the time to first token of the same prompts, asked cold

A question is a sentence of an indexed document, so that there is something to find; its relevance is not judged, so
none is refused. Peers get the same token ids; they are told not to use their cache for the cold question only.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edge.bench.context import Context, Peer
from edge.bench.figures import rounded, spread
from edge.bench.questions import questions
from edge.bench.result import SuiteResult
from edge.bench.side import Side, Timing
from edge.bench.suites.latency import sample_of
from edge.bench.text import Sample
from edge.cite import cite
from edge.prompt import build
from edge.types import Hit, Prompt

T = TypeVar("T")

NAME = "rag"
STAGES = ("embed", "retrieve", "pack", "prefill", "decode", "cite", "end_to_end")
CACHED = ("follow_up", "warm_prefix")
MODES = ("cold", *CACHED)


@dataclass
class Turn:
    """What is asked in one round, and what retrieving it took."""

    prompts: dict[str, Prompt]  # mode -> prompt
    stages: dict[str, float]  # seconds, of the cold question


def run(context: Context) -> SuiteResult:
    """Measure ours and, in turns, every peer that generates; the peers' part goes into their results."""
    asked = questions(
        context.box.store, 2 * context.config.rag.questions, context.random(NAME), context.config.rag.questions_file
    )
    rounds = min(context.config.rag.questions, len(asked))
    timings: dict[str, dict[str, list[Timing]]] = defaultdict(lambda: defaultdict(list))
    stages: list[dict[str, float]] = []
    for number in context.track(range(-min(context.config.warmup, 1), rounds), "questions"):
        turn = _prepare(context, asked[number % len(asked)], asked[(number + 1) % len(asked)])
        for peer, side in context.sides():
            found = context.attempt(peer, _ask, context, side, turn)
            if found is not None and number >= 0:
                for mode, timing in found.items():
                    timings[peer.name if peer else "edge"][mode].append(timing)
                if peer is None:
                    stages.append(_stages(context, turn, found["cold"]))
    own = SuiteResult()
    for stage in STAGES:
        own.metrics |= spread(f"{stage}_sec", [found[stage] for found in stages], (50, 95))
    own.series["stages"] = [{"stage": stage, "sec": own.metrics[f"{stage}_sec_p50"]} for stage in STAGES]
    own.samples["stages"] = [{name: rounded(sec) for name, sec in found.items()} for found in stages]
    own.samples["questions"] = asked
    _put(own, timings["edge"])
    for peer in context.peers:
        if peer.name in timings:
            _put(peer.suite(NAME), timings[peer.name])
            _explain(peer)
    return own


def _prepare(context: Context, question: str, other: str) -> Turn:
    """The prompts of a round, and the time of the stages before the model."""
    box, stages = context.box, {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        done = work()
        stages[stage] = time.perf_counter() - started
        return done

    timed("embed", lambda: box.embedder.embed_query(question))
    hits = timed("retrieve", lambda: box.retrieve(question))  # embeds the question again: that is a part of retrieving
    cold = timed("pack", lambda: pack(context, question, hits))
    shown = {passage.hit.chunk_id for passage in cold.passages}
    elsewhere = [hit for hit in box.retrieve(other) if hit.chunk_id not in shown]
    prompts = {"cold": cold, "follow_up": pack(context, other, hits), "warm_prefix": pack(context, other, elsewhere)}
    return Turn(prompts, stages)


def pack(context: Context, question: str, hits: list[Hit]) -> Prompt:
    """The prompt as `edge.answer` packs it."""
    box, config = context.box, context.box.config.answer
    return build(
        question,
        hits,
        box.engine,
        budget_tokens=min(config.context_tokens, box.engine.context_tokens) - config.max_tokens,
        max_passages=config.max_passages,
        special_tokens=box.bundle.manifest.model.special_tokens,
    )


def _ask(context: Context, side: Side, turn: Turn) -> dict[str, Timing]:
    """All modes on one side, in the order in which each finds the cache that it is about."""
    samples = {mode: Sample(prompt.token_ids, prompt.text) for mode, prompt in turn.prompts.items()}
    found = {}
    for mode in CACHED:
        side.forget()
        found[f"{mode}_cold"] = side.generate(samples[mode], 1)
    side.forget()
    for mode in MODES:
        limit = context.box.config.answer.max_tokens
        found[mode] = side.generate(samples[mode], limit, reuse=mode in CACHED)
    return found


def _stages(context: Context, turn: Turn, cold: Timing) -> dict[str, float]:
    """Seconds of every stage of the cold question, the last one being their sum."""
    started = time.perf_counter()
    cite(cold.text, "", turn.prompts["cold"].passages, context.box.config.answer.support)
    found = {
        **turn.stages,
        "prefill": cold.ttft_sec,
        "decode": cold.decode_sec,
        "cite": time.perf_counter() - started,
    }
    # retrieving holds an embedding of its own
    return found | {"end_to_end": sum(found.values()) - found["embed"]}


def _put(suite: SuiteResult, timings: dict[str, list[Timing]]) -> None:
    for mode in MODES:
        found = timings[mode]
        suite.metrics |= spread(f"{mode}_ttft_sec", [t.ttft_sec for t in found], (50, 95))
        suite.metrics |= spread(f"{mode}_prefill_tok_per_sec", [t.prefill_tok_per_sec for t in found])
        suite.metrics |= spread(f"{mode}_decode_tok_per_sec", [t.decode_tok_per_sec for t in found])
        suite.metrics |= spread(f"{mode}_cached_share", [_share(t) for t in found])
        suite.samples[mode] = [sample_of(t.prompt_tokens, t) for t in found]
    for mode in CACHED:
        suite.metrics |= spread(f"{mode}_cold_ttft_sec", [t.ttft_sec for t in timings[f"{mode}_cold"]])
        warm, cold = suite.metrics[f"{mode}_ttft_sec_p50"], suite.metrics[f"{mode}_cold_ttft_sec_p50"]
        suite.metrics[f"{mode}_ttft_ratio"] = rounded(warm / cold) if warm and cold else None
    suite.metrics |= spread("rag_prompt_tokens", [float(t.prompt_tokens) for t in timings["cold"]])


def _share(timing: Timing) -> float | None:
    """The part of the prompt that came from the cache, 0..1."""
    return None if timing.cached_tokens is None else timing.cached_tokens / timing.prompt_tokens


def _explain(peer: Peer) -> None:
    names = [f"{stage}_sec_p{percent}" for stage in STAGES for percent in (50, 95)]
    peer.suite(NAME).absent("a peer gets finished prompts: it retrieves nothing", *names)
