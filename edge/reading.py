"""How a model reads the passages of a question, and what it was tuned for.

A small model is distracted by passages that are beside the point. One that was tuned to say where a passage holds no
answer is therefore given the closest passage alone, and all of them only where it finds nothing there: better answers
than from all at once (docs/decisions.md), and most questions cost a third of the reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.cite import quote
from edge.engine.base import Engine, Sampling, Session, Stats
from edge.prompt import NO_ANSWER, build
from edge.sentences import sentences
from edge.types import Dropped, Passage, Prompt, Token


@dataclass(frozen=True, slots=True)
class Tuning:
    """The model cites what it says ("ten seconds [2]"), and says `NO_ANSWER` where the passages hold none."""

    languages: tuple[str, ...] = ()  # ISO 639-1: of the passages that it was tuned to read; empty: any

    def covers(self, passages: Sequence[Passage]) -> bool:
        """Whether all of them are in languages that it was tuned to read."""
        return not self.languages or all(passage.hit.language in self.languages for passage in passages)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read last, and what came of it."""

    prompt: Prompt
    generated: str
    stats: Stats  # of that prompt; the time to the first token counts from the start of the first reading


@dataclass(frozen=True, slots=True)
class Reader:
    """An engine, and how it is asked.

    :param on_start: called with each request to the model, which can be cancelled.
    :param on_token: called with each token as it is generated.
    """

    engine: Engine
    sampling: Sampling
    adapter: str | None
    on_start: Callable[[Session], None]
    on_token: Callable[[Token], None]

    def read(self, prompt: Prompt) -> Reading:
        """What the model writes, up to its own end, the limit, or the first sentence that it repeats.

        :raises EngineError: the model fails.
        """
        session = self.engine.start(prompt.token_ids, self.sampling, adapter=self.adapter)
        self.on_start(session)
        text, known, repeats = "", 0, False
        for token in session:
            text += token.text
            self.on_token(token)
            if token.text.endswith((".", "\n", "?", "!")):
                written = [" ".join(text[start:end].split()) for start, end in sentences(text)]
                if len(set(written)) < len(written):  # small models go round in circles; what follows is the same again
                    session.cancel()
                    text, repeats = text[:known], True
                known = len(text)
        stats = dataclasses.replace(session.stats, finish_reason="repetition") if repeats else session.stats
        return Reading(prompt, text.strip(), stats)

    def read_closest_first(
        self, question: str, prompt: Prompt, *, budget_tokens: int, special_tokens: Sequence[str]
    ) -> Reading:
        """The passage that holds the sentence closest to the question, then all of `prompt`, that one first."""
        evidence = quote(question, prompt.passages)
        if evidence is None or len(prompt.passages) == 1:
            return self.read(prompt)
        ordered = sorted(prompt.passages, key=lambda passage: passage.marker != evidence.marker)
        hits = [passage.hit for passage in ordered]

        def of(count: int) -> Prompt:
            return build(
                question,
                hits[:count],
                self.engine,
                budget_tokens=budget_tokens,
                max_passages=count,
                special_tokens=special_tokens,
            )

        first = self.read(of(1))
        if not first.generated.startswith(NO_ANSWER):
            unread = tuple(Dropped(h.chunk_id, h.document, h.chunk.start, h.chunk.end, 0, "unread") for h in hits[1:])
            return dataclasses.replace(first, prompt=dataclasses.replace(first.prompt, dropped=unread + prompt.dropped))
        second = self.read(of(len(hits)))
        stats = dataclasses.replace(second.stats, ttft_sec=_seconds(first.stats) + second.stats.ttft_sec)
        return Reading(dataclasses.replace(second.prompt, dropped=prompt.dropped), second.generated, stats)


def _seconds(stats: Stats) -> float:
    rest = max(0, stats.completion_tokens - 1)
    return stats.ttft_sec + (rest / stats.decode_tok_per_sec if stats.decode_tok_per_sec else 0.0)
