"""How a model reads a prompt: to its end or until it goes round in circles; and whether it surely knows no answer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.engine.base import Engine, Sampling, Session, Stats
from edge.prompt import NO_ANSWER
from edge.sentences import sentences
from edge.types import Hit, Prompt, Token

_LIKELY = 0.5
_ALTERNATIVES = 5  # to a token, that are looked at


@dataclass(frozen=True, slots=True)
class Tuning:
    """The model cites what it says ("ten seconds [2]"), and says `NO_ANSWER` where the passages hold none."""

    languages: tuple[str, ...] = ()  # ISO 639-1: of the passages that it was tuned to read; empty: any

    def covers(self, hits: Sequence[Hit]) -> bool:
        """Whether all of them are in languages that it was tuned to read."""
        return not self.languages or all(hit.language in self.languages for hit in hits)


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a prompt."""

    generated: str
    stats: Stats
    doubted: bool = False  # the model's own first choice was that there is no answer; the search outweighed it


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

    def read(self, prompt: Prompt, *, began: str = "") -> Reading:
        """What the model writes, up to its own end, the limit, or the first sentence that it repeats.

        :param began: the beginning of the answer, where the prompt ends with it.
        :raises EngineError: the model fails.
        """
        session = self._start(prompt.token_ids, self.sampling)
        text, known, repeats = began, 0, False
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
        return Reading(text.strip(), stats)

    def read_or_abstain(self, prompt: Prompt, relevance: float, *, floor: float = 0.0) -> Reading:
        """As `read`, of a model that says `NO_ANSWER` where it finds none; it is weighed against what the search found.

        Greedy choice may start on that sentence where it is less likely, as a whole, than that there is an answer, and
        on an answer where the search found next to nothing. So the odds that the model gives to it and those of the
        search are multiplied, as of witnesses that know nothing of each other. From passages that an untuned model
        would not be shown, the odds of the answer itself, multiplied in the same way, must be no worse than even.

        :param relevance: calibrated probability that the passages hold an answer, 0..1.
        :param floor: the relevance below which an untuned model would not be shown the passages.
        """
        found = self.read(prompt)
        says_none = found.generated.startswith(NO_ANSWER)
        if not says_none and relevance >= _LIKELY:
            return found
        limit = len(self.engine.encode(NO_ANSWER)) if says_none else self.sampling.max_tokens
        said = self._weighed(prompt, limit)  # the same once more; probabilities and drafts exclude each other
        sure = math.exp(sum(token.logprobs.logprob for token in said if token.logprobs))
        none = sure if says_none else self._first_of_none(said)
        if none * (1 - relevance) >= (1 - none) * relevance:
            return Reading(NO_ANSWER, found.stats)
        if not says_none and relevance < floor and sure * relevance < (1 - sure) * (1 - relevance):
            return Reading(NO_ANSWER, found.stats)
        other = next((token for token in _alternatives(said) if token[1].strip()), None) if says_none else None
        if other is None:
            return found
        second = self.read(dataclasses.replace(prompt, token_ids=(*prompt.token_ids, other[0])), began=other[1])
        return dataclasses.replace(second, doubted=True)

    def _weighed(self, prompt: Prompt, max_tokens: int) -> list[Token]:
        sampling = dataclasses.replace(self.sampling, max_tokens=max_tokens, logprobs=_ALTERNATIVES)
        return [token for token in self._start(prompt.token_ids, sampling) if token.logprobs is not None]

    def _first_of_none(self, said: Sequence[Token]) -> float:
        """The probability that the answer began as `NO_ANSWER` does, 0..1; 0 where it did, and went on differently."""
        first = self.engine.encode(NO_ANSWER)[0]
        return sum(math.exp(logprob) for token, _, logprob in _alternatives(said) if token == first)

    def _start(self, token_ids: Sequence[int], sampling: Sampling) -> Session:
        session = self.engine.start(token_ids, sampling, adapter=self.adapter)
        self.on_start(session)
        return session


def _alternatives(said: Sequence[Token]) -> Sequence[tuple[int, str, float]]:
    """What the first token could have been instead, the most probable first."""
    if not said or said[0].logprobs is None:
        return ()
    return [token for token in said[0].logprobs.top if token[0] != said[0].id]
