"""From a question to an answer with checked citations: retrieve, prompt, stream, cite.

`answer` is the whole path. Two safeguards stand on it, because a small model is sure of everything it says:
- nothing relevant was found: the answer is an abstention, and the model is not asked;
- no passage supports any sentence of what the model wrote: the best matching sentence of the passages is quoted
  instead, and what the model wrote is kept in `Answer.generated`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.cite import Sentence, cite, quote
from edge.config import EdgeConfig
from edge.engine.base import Engine, Sampling, Stats
from edge.machine import rss_peak_bytes
from edge.prompt import build, build_closed_book
from edge.types import Citation, Dropped, Hit, Prompt, Token

ABSTENTION = "The documents do not answer this question."


def ignore(_: Token) -> None:
    """For a caller that waits for the whole answer."""


NO_STATS = Stats(prompt_tokens=0, completion_tokens=0, ttft_sec=0.0, decode_tok_per_sec=0.0, finish_reason="stop")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is shown, and everything that led to it."""

    text: str
    sentences: tuple[Sentence, ...]  # of `text`, each with its citation or none
    citations: tuple[Citation, ...]  # one per span, in the order of the answer
    abstained: bool
    quoted: bool  # `text` is a sentence of a passage, since nothing supported what the model wrote
    generated: str  # what the model wrote
    hits: tuple[Hit, ...]
    prompt: Prompt | None  # None where the model was not asked
    dropped: tuple[Dropped, ...]
    stats: Stats
    retrieve_sec: float
    rss_peak_bytes: int  # of this process


def answer(
    question: str,
    *,
    retrieve: Callable[[str], Sequence[Hit]],
    engine: Engine,
    config: EdgeConfig,
    special_tokens: Sequence[str] = (),
    on_token: Callable[[Token], None] = ignore,
) -> Answer:
    """Answer a question from the documents.

    :param retrieve: question to hits, best first.
    :param on_token: called with each token as it is generated.
    :raises UsageError: the question is empty.
    :raises PromptTooLong: it does not fit the context.
    :raises EngineError: the model fails.
    """
    budget = _prompt_budget(engine, config)
    build(question, [], engine, budget_tokens=budget, max_passages=0, special_tokens=special_tokens)  # fits at all?
    started = time.perf_counter()
    hits = tuple(retrieve(question))
    retrieve_sec = time.perf_counter() - started

    if not hits or max(hit.relevance for hit in hits) < config.retrieve.floor:
        dropped = tuple(Dropped(h.chunk_id, h.document, h.chunk.start, h.chunk.end, 0, "floor") for h in hits)
        return Answer(
            ABSTENTION, (), (), True, False, "", hits, None, dropped, NO_STATS, retrieve_sec, rss_peak_bytes()
        )
    prompt = build(
        question,
        hits,
        engine,
        budget_tokens=budget,
        max_passages=config.answer.max_passages,
        special_tokens=special_tokens,
    )
    generated, stats = _generate(prompt, engine, config, on_token)
    text, quoted = generated, False
    sentences = cite(text, question, prompt.passages, config.answer.support)
    if not any(sentence.citation for sentence in sentences) and (evidence := quote(question, prompt.passages)):
        text, quoted = evidence.text, True
        sentences = [Sentence(0, len(text), text, evidence)]
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
        rss_peak_bytes=rss_peak_bytes(),
    )


def answer_closed_book(
    question: str,
    *,
    engine: Engine,
    config: EdgeConfig,
    special_tokens: Sequence[str] = (),
    on_token: Callable[[Token], None] = ignore,
) -> Answer:
    """Answer from the model's own memory, without documents or citations: for comparison.

    :raises UsageError: the question is empty.
    :raises PromptTooLong: it does not fit the context.
    :raises EngineError: the model fails.
    """
    budget = _prompt_budget(engine, config)
    prompt = build_closed_book(question, engine, budget_tokens=budget, special_tokens=special_tokens)
    text, stats = _generate(prompt, engine, config, on_token)
    return Answer(text, (), (), False, False, text, (), prompt, (), stats, 0.0, rss_peak_bytes())


def _prompt_budget(engine: Engine, config: EdgeConfig) -> int:
    return min(config.answer.context_tokens, engine.context_tokens) - config.answer.max_tokens


def _generate(
    prompt: Prompt, engine: Engine, config: EdgeConfig, on_token: Callable[[Token], None]
) -> tuple[str, Stats]:
    session = engine.start(prompt.token_ids, Sampling(max_tokens=config.answer.max_tokens))
    pieces: list[str] = []
    for token in session:
        pieces.append(token.text)
        on_token(token)
    return "".join(pieces).strip(), session.stats


def _distinct(sentences: Sequence[Sentence]) -> tuple[Citation, ...]:
    """The citations of the sentences, one per span."""
    found: dict[tuple[str, int, int], Citation] = {}
    for sentence in sentences:
        if citation := sentence.citation:
            found.setdefault((citation.document, citation.start, citation.end), citation)
    return tuple(found.values())
