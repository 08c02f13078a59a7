"""A request on ONNX Runtime GenAI, as steps that other requests can run between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge.engine.base import FinishReason, Guidance, Sampling, Stats
from edge.engine.stops import StopFilter
from edge.errors import EngineError, UsageError
from edge.types import Logprobs, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.engine.genai import GenaiEngine
    from edge.engine.library import Generator, Tokenizer, TokenizerStream


class GenaiSession:
    """One request: prefill in pieces, then one token a step, or several where a draft was right."""

    def __init__(self, engine: GenaiEngine, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> None:
        self._engine, self._token_ids, self._sampling = engine, list(token_ids), sampling
        self._adapter = adapter
        self._limit = min(sampling.max_tokens, engine.context_tokens - len(token_ids))
        self._stops = StopFilter(sampling.stop)
        self._is_cancelled = False
        self.is_ended = self._limit < 1  # all its tokens have been given out: what is left of `steps` takes no time
        self._cached = self._read = self._count = 0
        self._said = ""  # while it is held to a schema
        self._finish_reason: FinishReason = "length"
        self._started = self._first = self._last = 0.0

    def cancel(self) -> None:
        self._is_cancelled = True

    @property
    def stats(self) -> Stats:
        decode_sec = self._last - self._first
        return Stats(
            prompt_tokens=len(self._token_ids),
            cached_tokens=self._cached,
            completion_tokens=self._count,
            ttft_sec=self._first - self._started,
            decode_tok_per_sec=(self._count - 1) / decode_sec if self._count > 1 and decode_sec > 0 else 0.0,
            finish_reason=self._finish_reason,
        )

    def __iter__(self) -> Iterator[Token]:
        for tokens in self.steps():
            for token in tokens:
                if self._stopped():
                    break
                yield token

    def steps(self) -> Iterator[list[Token]]:
        """The answer in steps of the model: an empty list is a piece of the prompt, or text that is held back.

        To be iterated, or closed, in the thread of all sessions of the engine.
        """
        engine = self._engine
        self._started = self._first = self._last = time.perf_counter()
        with translated(self._sampling.guidance):
            generator, self._cached = engine._open(self._token_ids, self._sampling, self._adapter)
            self._read = self._cached
            try:
                yield from self._prefill(generator)
                if self._read == len(self._token_ids):
                    yield from self._decode(generator)
                self._check_said()
            except GeneratorExit:  # whoever reads the stream has had enough; the prefix is sound all the same
                self._keep(generator)
                raise
            else:
                self._keep(generator)
            finally:
                engine._in_use -= 1

    def _keep(self, generator: Generator) -> None:
        self._engine._keep(generator, self._token_ids[: self._read], self._sampling, self._adapter)

    def _prefill(self, generator: Generator) -> Iterator[list[Token]]:
        """Read the prompt, up to a cancel."""
        end = len(self._token_ids)
        while self._read < end and not self._stopped():
            step = self._engine._piece_tokens
            if end - self._read == step + 1:
                step -= 1  # the last piece gets two tokens, see `edge.engine.genai`
            piece = self._token_ids[self._read : self._read + step]
            started = time.perf_counter()
            generator.append_tokens(piece)
            if len(piece) == step:
                self._engine._set_piece(step / (time.perf_counter() - started))
            self._read += len(piece)
            yield []

    def _decode(self, generator: Generator) -> Iterator[list[Token]]:
        pieces = self._engine._tokenizer.create_stream()
        while not self.is_ended and not self._stopped():
            row = self._logits(generator)
            generator.generate_next_token()
            self._last = time.perf_counter()
            if self._count == 0:
                self._first = self._last
            # one step gives several tokens where a draft was right
            new = generator.tokens_from(len(self._token_ids) + self._count)
            ready = self._accept(new, pieces, row)
            if not self.is_ended and self._count == self._limit:
                self.is_ended = True  # the library is done then too, where it has no more room
            elif not self.is_ended and generator.is_done():  # it does not list the token that ended it
                self._end("stop")
            if self.is_ended:
                ready += self._stops.flush()
            yield ready

    def _accept(
        self, token_ids: Sequence[int], pieces: TokenizerStream, row: NDArray[np.float32] | None
    ) -> list[Token]:
        """Count the tokens of one step up to the end of the answer; those that can be shown."""
        ready: list[Token] = []
        for token_id in token_ids:
            if token_id in self._engine._stop_tokens:
                self._end("stop")
            elif self._count == self._limit:
                self._end("length")
            else:
                self._count += 1
                logprobs = None
                if row is not None:
                    logprobs = _logprobs(row, token_id, self._sampling.logprobs or 0, self._engine._tokenizer)
                text = pieces.decode(token_id)
                if self._sampling.guidance is not None:
                    self._said += text
                ready += self._stops.push(Token(token_id, text, logprobs))
                if self._stops.found:
                    self._end("stop")
            if self.is_ended:
                break
        return ready

    def _end(self, reason: FinishReason) -> None:
        self.is_ended, self._finish_reason = True, reason

    def _logits(self, generator: Generator) -> NDArray[np.float32] | None:
        """The model's own logits for the next token, float32 (vocabulary,); None where nobody asked for them."""
        if self._sampling.logprobs is None:
            return None
        return generator.last_logits()

    def _check_said(self) -> None:
        """A schema that ends an answer in the middle, or before it begins, is one that the library cannot enforce.

        :raises UsageError: this is one.
        """
        guidance = self._sampling.guidance
        if guidance is None or guidance.kind != "json_schema" or self._finish_reason != "stop" or self._stops.found:
            return
        try:
            json.loads(self._said)
        except ValueError:
            after = f"after {self._said[:40]!r} nothing" if self._said else "nothing"
            raise UsageError(f"the json_schema cannot be enforced: {after} can be said that fits it") from None

    def _stopped(self) -> bool:
        if self._is_cancelled:
            self._finish_reason = "cancelled"
        return self._is_cancelled


def _logprobs(row: NDArray[np.float32], token_id: int, count: int, tokenizer: Tokenizer) -> Logprobs:
    """Natural logarithms of the softmax of a row of logits, float32 (vocabulary,)."""
    import numpy as np  # 8 MiB that only those who ask for this pay

    shifted = row - row.max()
    logs = shifted - np.log(np.exp(shifted, dtype=np.float64).sum())
    best = np.argpartition(-row, count)[:count] if count else np.empty(0, dtype=np.int64)
    ordered = sorted(best.tolist(), key=lambda index: (-row[index], index))
    top = tuple((index, tokenizer.decode([index]), float(logs[index])) for index in ordered)
    return Logprobs(float(logs[token_id]), top)


UNENFORCED = ("Error creating grammar", "Error committing tokens", "Error computing mask")
"""What the library says of guidance that it cannot enforce, before the reason: when it reads it, and at some token."""
_STATE = "\n<state>"  # what it goes on with is for its authors


@contextmanager
def translated(guidance: Guidance | None = None) -> Iterator[None]:
    """The library's errors as this package's.

    :param guidance: of the request that it works on.
    :raises UsageError: the guidance cannot be enforced.
    :raises EngineError: the library fails.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if guidance is not None and (said := next((one for one in UNENFORCED if one in text), None)):
            reason = text.partition(said)[2].partition(_STATE)[0].strip(": \n")
            advice = "" if said == UNENFORCED[0] else ". Fewer optional properties and alternatives may help"
            raise UsageError(f"the {guidance.kind} cannot be enforced: {reason}{advice}") from None
        raise EngineError(f"the model failed while generating: {error}") from error
