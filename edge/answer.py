"""From a question to an answer with checked citations: retrieve, prompt, stream, cite.

`answer` is the whole path. Two safeguards stand on it, because a small model is sure of everything it says:
- nothing relevant was found: the answer is an abstention, and the model is not asked; so is an answer that no passage
  supports where no passage holds any word of the question either, and what a model tuned to do so says itself;
- what the model wrote is not borne out (see `_is_trusted`): the sentences of the passages that answer the question
  best are quoted instead, and what the model wrote is kept in `Answer.generated`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.cite import Sentence, cite, cite_marked, quote
from edge.config import EdgeConfig, Trust
from edge.engine.base import Engine, Sampling, Session, Stats
from edge.errors import PromptTooLong
from edge.memory import tree_rss_peak_bytes
from edge.prompt import NO_ANSWER, build, build_closed_book
from edge.reading import Reader, Tuning
from edge.types import Citation, Dropped, Hit, Prompt, Token

ABSTENTION = "The documents do not answer this question."


def ignore(_: Token | Session) -> None:
    """For a caller that waits for the whole answer."""


NO_STATS = Stats(
    prompt_tokens=0, cached_tokens=0, completion_tokens=0, ttft_sec=0.0, decode_tok_per_sec=0.0, finish_reason="stop"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is shown, and everything that led to it."""

    text: str
    sentences: tuple[Sentence, ...]  # of `text`, each with its citation or none
    citations: tuple[Citation, ...]  # one per span, in the order of the answer
    abstained: bool
    quoted: bool  # `text` stands word for word in a passage, since what the model wrote was not borne out
    generated: str  # what the model wrote
    hits: tuple[Hit, ...]
    prompt: Prompt | None  # None where the model was not asked
    dropped: tuple[Dropped, ...]
    stats: Stats
    retrieve_sec: float
    rss_peak_bytes: int  # of this process and its children, their peaks added up


def answer(
    question: str,
    *,
    retrieve: Callable[[str], Sequence[Hit]],
    engine: Engine,
    config: EdgeConfig,
    special_tokens: Sequence[str] = (),
    tuning: Tuning | None = None,
    search_first: bool = False,
    adapter: str | None = None,
    sampling: Sampling | None = None,
    on_start: Callable[[Session], None] = ignore,
    on_token: Callable[[Token], None] = ignore,
) -> Answer:
    """Answer a question from the documents.

    :param retrieve: question to hits, best first.
    :param search_first: start the engine after the search, not beside it: slower, and the two never need room at once.
    :param adapter: one of the bundle's, which the model reads and writes with.
    :param tuning: the model was tuned to cite, and to say where the passages hold no answer.
    :param sampling: None is greedy, up to `answer.max_tokens`.
    :param on_start: called with the request to the model, which can be cancelled.
    :param on_token: called with each token as it is generated.
    :raises UsageError: the question is empty.
    :raises PromptTooLong: it does not fit the context.
    :raises EngineError: the model fails.
    """
    budget = _prompt_budget(engine, config)
    if not search_first:
        build(question, [], engine, budget_tokens=budget, max_passages=0, special_tokens=special_tokens)  # fits at all?
        engine.load(wait=False)  # while the documents are searched
    started = time.perf_counter()
    hits = tuple(retrieve(question))
    retrieve_sec = time.perf_counter() - started

    is_tuned = tuning is not None and tuning.covers(hits[: config.answer.max_passages])
    floor = config.retrieve.tuned_floor if is_tuned else config.retrieve.floor
    relevance = max((hit.relevance or 0.0 for hit in hits), default=0.0)
    if not hits or relevance < floor:
        dropped = tuple(Dropped(h.chunk_id, h.document, h.chunk.start, h.chunk.end, 0, "floor") for h in hits)
        return _abstention(hits, None, dropped, "", NO_STATS, retrieve_sec)
    prompt = build(
        question,
        hits,
        engine,
        budget_tokens=budget,
        max_passages=config.answer.max_passages,
        special_tokens=special_tokens,
    )
    if not prompt.passages:
        raise PromptTooLong(
            "no passage fits beside the question: shorten it, raise answer.context_tokens, or lower "
            "ingest.chunk.max_tokens and run `edge index rebuild`"
        )
    reader = Reader(engine, sampling or Sampling(max_tokens=config.answer.max_tokens), adapter, on_start, on_token)
    doubtful = config.retrieve.floor
    reading = reader.read_or_abstain(prompt, relevance, floor=doubtful) if is_tuned else reader.read(prompt)
    generated, stats = reading.generated, reading.stats
    if is_tuned and generated.startswith(NO_ANSWER):
        return _abstention(hits, prompt, prompt.dropped, generated, stats, retrieve_sec)
    shown = _shown(generated, question, prompt, config, is_tuned)
    if shown is None or (reading.doubted and shown[1]):  # where the model finds nothing, neither does a quotation
        return _abstention(hits, prompt, prompt.dropped, generated, stats, retrieve_sec)
    text, quoted, sentences = shown
    return Answer(
        text=text,
        sentences=tuple(sentences),
        citations=_distinct(sentences),
        abstained=False,
        quoted=quoted,
        generated=generated,
        hits=hits,
        prompt=prompt,
        dropped=prompt.dropped,
        stats=stats,
        retrieve_sec=retrieve_sec,
        rss_peak_bytes=tree_rss_peak_bytes(os.getpid()),
    )


def _shown(
    generated: str, question: str, prompt: Prompt, config: EdgeConfig, is_tuned: bool
) -> tuple[str, bool, Sequence[Sentence]] | None:
    """What is shown of what the model wrote: its text, cited; where it is not borne out, a quotation, which the second
    value says; None where the passages hold none either."""
    text, support = generated, config.answer.support
    if is_tuned:
        text, sentences = cite_marked(text, question, prompt.passages, support)
    else:
        sentences = cite(text, question, prompt.passages, support)
    evidence = quote(question, prompt.passages)
    if _is_trusted(sentences, evidence, _trust(config, is_tuned)):
        return text, False, sentences
    if evidence is None:
        return None
    return evidence.text, True, [Sentence(0, len(evidence.text), evidence.text, evidence)]


def answer_closed_book(
    question: str,
    *,
    engine: Engine,
    config: EdgeConfig,
    special_tokens: Sequence[str] = (),
    adapter: str | None = None,
    on_token: Callable[[Token], None] = ignore,
) -> Answer:
    """Answer from the model's own memory, without documents or citations: for comparison.

    :raises UsageError: the question is empty.
    :raises PromptTooLong: it does not fit the context.
    :raises EngineError: the model fails.
    """
    budget = _prompt_budget(engine, config)
    prompt = build_closed_book(question, engine, budget_tokens=budget, special_tokens=special_tokens)
    found = Reader(engine, Sampling(max_tokens=config.answer.max_tokens), adapter, ignore, on_token).read(prompt)
    text, peak = found.generated, tree_rss_peak_bytes(os.getpid())
    return Answer(text, (), (), False, False, text, (), prompt, (), found.stats, 0.0, peak)


def _abstention(
    hits: tuple[Hit, ...],
    prompt: Prompt | None,
    dropped: tuple[Dropped, ...],
    generated: str,
    stats: Stats,
    retrieve_sec: float,
) -> Answer:
    return Answer(
        ABSTENTION,
        (),
        (),
        True,
        False,
        generated,
        hits,
        prompt,
        dropped,
        stats,
        retrieve_sec,
        tree_rss_peak_bytes(os.getpid()),
    )


def _trust(config: EdgeConfig, is_tuned: bool) -> Trust:
    if config.answer.trust == "auto":
        return "support" if is_tuned else "agreement"
    return config.answer.trust


def _is_trusted(sentences: Sequence[Sentence], evidence: Citation | None, trust: Trust) -> bool:
    """Whether what the model wrote is shown.

    `support`: a passage supports one of its sentences. `agreement`: the passage sentences that answer the question
    best (`evidence`) support its first sentence, so two ways that share no model came to the same place, and none of
    the others leans on another place: what a small model adds from there is mostly about something else.
    """
    cited = [sentence.citation for sentence in sentences if sentence.citation]
    if trust == "support":
        return bool(cited)
    if evidence is None or not sentences or sentences[0].citation is None:
        return False
    return all(_overlap(citation, evidence) for citation in cited)


def _overlap(one: Citation, other: Citation) -> bool:
    return one.document == other.document and one.start < other.end and other.start < one.end


def _prompt_budget(engine: Engine, config: EdgeConfig) -> int:
    return min(config.answer.context_tokens, engine.context_tokens) - config.answer.max_tokens


def _distinct(sentences: Sequence[Sentence]) -> tuple[Citation, ...]:
    """The citations of the sentences, one per span."""
    found: dict[tuple[str, int, int], Citation] = {}
    for sentence in sentences:
        if citation := sentence.citation:
            found.setdefault((citation.document, citation.start, citation.end), citation)
    return tuple(found.values())
