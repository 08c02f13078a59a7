"""Suite `memory`: what a whole tree of processes takes at its peak, watched from outside.

rag_*      `edge ask --batch` over questions about the documents: engine, embedder, index, the command itself.
           llama-server answers the same prompts as it comes, its prompt cache on, with no retrieval to pay for.
longest_*  one prompt that fills the context but for the answer, and nothing else

rss: the sum over the processes of what is resident; private: no file backs it (RssAnon); file_backed: of mapped files,
each page once.
"""

from __future__ import annotations

import json

from edge.bench.context import Context, Peer
from edge.bench.llamacpp import Build, serving
from edge.bench.process import Peaks, peaks_of, watched
from edge.bench.questions import questions
from edge.bench.result import SuiteResult
from edge.bench.suites.latency import course, memory_figures
from edge.bench.suites.rag import pack
from edge.bench.text import Sample
from edge.memory import PeakSampler

NAME = "memory"
METRICS = tuple(
    f"{what}_{kind}_peak_bytes" for what in ("rag", "longest") for kind in ("rss", "private", "file_backed")
)
_TIMEOUT_SEC = 600.0


def run(context: Context) -> SuiteResult:
    """Measure ours and every llama-server; the peers' part goes into their results."""
    count, file = context.config.memory.questions, context.config.rag.questions_file
    asked = questions(context.box.store, count, context.random(NAME), file)
    limit = context.box.config.answer.max_tokens
    longest = context.pool.draw(context.box.engine.context_tokens - limit)
    prompts = [pack(context, question, context.box.retrieve(question)) for question in asked]
    samples = [Sample(prompt.token_ids, prompt.text) for prompt in prompts]
    context.box.engine.close()

    own = SuiteResult()
    rag, full = [], []
    for _ in context.track(range(context.config.memory.runs), "memory"):
        rag.append(_ask(context, asked))
        command, request = context.subject(longest.token_ids, limit)
        full.append(watched(command, context.config.memory.sample_interval_sec, _TIMEOUT_SEC, request))
        for peer in context.standing():
            if peer.server is not None:
                context.attempt(peer, _serve, context, peer, peer.server, samples, longest)
    _put(own, rag, full)
    for peer in context.peers:
        if peer.server is None:
            peer.suite(NAME).absent("only a llama-server that was started here can be watched", *METRICS)
    return own


def _ask(context: Context, asked: list[str]) -> Peaks:
    batch = context.scratch / "questions.jsonl"
    batch.write_text("".join(json.dumps({"id": i, "question": text}) + "\n" for i, text in enumerate(asked)))
    command = context.edge("ask", "--batch", str(batch))
    return watched(command, context.config.memory.sample_interval_sec, _TIMEOUT_SEC)


def _serve(context: Context, peer: Peer, build: Build, samples: list[Sample], longest: Sample) -> None:
    """A llama-server of its own, so that what it took for other suites is not counted."""
    config, limit = context.config.peer, context.box.config.answer.max_tokens
    found: list[Peaks] = []
    for prompts in (samples, [longest]):
        with serving(build, config.context_tokens, config.server_arguments) as server:
            with PeakSampler(server.pid, interval_sec=context.config.memory.sample_interval_sec) as sampler:
                for prompt in prompts:
                    server.generate(prompt, limit, reuse=True)
            found.append(peaks_of(sampler))
    suite = peer.suite(NAME)
    before = dict(suite.metrics)
    _put(suite, found[:1], found[1:])
    for name, value in before.items():  # the largest of all runs
        if value is not None:
            suite.metrics[name] = max(value, suite.metrics[name] or 0)


def _put(suite: SuiteResult, rag: list[Peaks], full: list[Peaks]) -> None:
    suite.metrics |= memory_figures(rag, "rag_") | memory_figures(full, "longest_")
    suite.series["memory_over_time"] = course(rag[-1])
