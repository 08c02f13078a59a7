"""The engine on ONNX Runtime GenAI, in this process. The only file that imports the generator library.

The library holds Python's global lock while it computes, so nothing else in this process can end a long prefill: the
prompt is read in pieces, and a request looks whether it is cancelled between them.

A token read alone goes through another kernel than tokens read together, and comes out a little different (no worse: as
near to the fp32 model). So that a prompt gives the same answer whether its beginning was kept or not, no piece has one
token, and only what was read as a prompt is kept, not what was generated.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from edge.engine.base import EngineOptions, FinishReason, Message, Sampling, Stats, check_adapter, check_fits
from edge.engine.prefix import PrefixCache
from edge.errors import EngineError
from edge.machine import cores
from edge.mapped import MappedFiles, read_used
from edge.types import Token

PIECE_SEC = 0.08
"""What a piece of a prompt should take: a cancelled request waits for it."""
MIN_PIECE_TOKENS = 16
"""Smaller pieces would cost more than they save: a matrix product reads all weights for each."""
VERIFY = "Try `edge bundle verify`."


class GenaiEngine:
    """A model folder in this process.

    The tokenizer is loaded at once, the weights on the first `start`: prompts can be built and refused without them.

    :param folder: genai_config.json, tokenizer and weights.
    :param template: the chat template's text (Jinja).
    :param adapters: files of adapters by name; each is loaded when a request first names it.
    :raises EngineError: the folder cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        template: str,
        stop_tokens: Sequence[int],
        options: EngineOptions,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self.context_tokens = options.context_tokens
        self._options, self._template, self._stop_tokens = options, template, frozenset(stop_tokens)
        self._cache: PrefixCache[og.Generator] = PrefixCache(options.prefix_caches)
        try:
            self._config = og.Config(str(folder))
            self._config.overlay(json.dumps(_overlay(options)))
            self._tokenizer = og.Tokenizer(self._config)
        except (RuntimeError, OSError) as error:
            raise EngineError(f"{folder} cannot be loaded: {error}. {VERIFY}") from error
        self._folder = folder
        self._adapter_files = dict(adapters or {})
        self._adapters: og.Adapters | None = None
        self._loaded: set[str] = set()  # adapters
        self._model: og.Model | None = None
        self._mapped: MappedFiles | None = None
        self._piece_tokens = options.prefill_chunk_tokens

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    def render(self, messages: Sequence[Message]) -> str:
        turns = json.dumps([{"role": turn.role, "content": turn.content} for turn in messages])
        return str(self._tokenizer.apply_chat_template(turns, template_str=self._template, add_generation_prompt=True))

    def load(self, *, wait: bool = True) -> None:
        """Load the weights now rather than on the first request.

        :raises EngineError: they are damaged, or memory ran out.
        """
        if self._model is None:
            try:
                self._model = og.Model(self._config)
            except (RuntimeError, MemoryError) as error:
                raise EngineError(f"the model cannot be loaded: {error}. {VERIFY}") from error
            self._mapped = MappedFiles(self._folder, read_used(self._folder))
            self._mapped.settle(tight=self._options.tight_memory)
        elif self._mapped is not None:
            self._mapped.revive()

    def start(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        is_cancelled: Callable[[], bool] | None = None,
        *,
        adapter: str | None = None,
    ) -> GenaiSession:
        """Begin a request; see `edge.engine.base.Engine`.

        :param is_cancelled: asked between the pieces of prefill and between tokens, besides `Session.cancel`.
        """
        check_adapter(adapter, self._adapter_files)
        check_fits(len(token_ids), self.context_tokens)
        self.load()
        return GenaiSession(self, token_ids, sampling, is_cancelled, adapter)

    def probe(self, token_ids: Sequence[int], adapter: str | None = None) -> NDArray[np.float32]:
        """Logits, (2, vocabulary), after all tokens but the last, read together, and after the last, read alone."""
        self.load()
        with _translated():
            generator = self._generator(len(token_ids) + 1, Sampling(), adapter)
            rows = []
            for piece in (token_ids[:-1], token_ids[-1:]):
                generator.append_tokens(list(piece))
                rows.append(np.array(generator.get_logits()[0, -1], dtype=np.float32))
        return np.stack(rows)

    @property
    def mapped(self) -> MappedFiles | None:
        """The weights as files, once they are loaded."""
        return self._mapped

    def close(self) -> None:
        self._cache.clear()
        self._loaded.clear()
        self._adapters = None
        self._model = self._mapped = None

    def _set_piece(self, tok_per_sec: float) -> None:
        """Choose the size of the next piece, so that it takes `PIECE_SEC` on this machine as fast as it is now."""
        most = self._options.prefill_chunk_tokens
        self._piece_tokens = min(most, max(MIN_PIECE_TOKENS, int(tok_per_sec * PIECE_SEC)))

    def _open(self, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> tuple[og.Generator, int]:
        """A generator that holds the first tokens of the prompt, and how many."""
        is_greedy = sampling.temperature <= 0
        if is_greedy and (kept := self._cache.take(token_ids, adapter)):
            generator, held = kept
            generator.rewind_to(held)
            return generator, held
        self._cache.make_room()
        # Keys and values are allocated for max_length when a generator is built, so one that will be kept has it all.
        room = self.context_tokens
        if not (is_greedy and self._options.prefix_caches):
            room = min(room, len(token_ids) + sampling.max_tokens)
        return self._generator(room, sampling, adapter), 0

    def _generator(self, max_length: int, sampling: Sampling, adapter: str | None) -> og.Generator:
        """A generator with nothing in it; its adapter is chosen once, before the first token is read."""
        generator = og.Generator(self._model, self._params(max_length, sampling))
        if adapter is not None:
            self._load_adapter(adapter)
            generator.set_active_adapter(self._adapters, adapter)
        return generator

    def _load_adapter(self, name: str) -> None:
        if self._adapters is None:
            self._adapters = og.Adapters(self._model)
        if name not in self._loaded:
            file = self._adapter_files[name]
            try:
                self._adapters.load(str(file), name)
            except (RuntimeError, OSError) as error:
                raise EngineError(f"{file} cannot be loaded: {error}. {VERIFY}") from error
            self._loaded.add(name)

    def _keep(self, generator: og.Generator, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> None:
        if sampling.temperature <= 0 and self._options.prefix_caches:
            self._cache.put(generator, token_ids, adapter)

    def _params(self, max_length: int, sampling: Sampling) -> og.GeneratorParams:
        params = og.GeneratorParams(self._model)
        options: dict[str, float | bool] = {"max_length": max_length, "do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
                "random_seed": sampling.seed,
            }
        elif self._options.draft_tokens:
            params.set_speculative_options(
                ngram_size=self._options.draft_ngram, max_draft_tokens=self._options.draft_tokens
            )
        params.set_search_options(**options)
        return params


class GenaiSession:
    """One request: prefill on the first step, in pieces, then one token a step."""

    def __init__(
        self,
        engine: GenaiEngine,
        token_ids: Sequence[int],
        sampling: Sampling,
        is_cancelled: Callable[[], bool] | None,
        adapter: str | None,
    ) -> None:
        self._engine, self._token_ids, self._sampling = engine, list(token_ids), sampling
        self._adapter = adapter
        self._limit = min(sampling.max_tokens, engine.context_tokens - len(token_ids))
        self._ask = is_cancelled
        self._is_cancelled = False
        self._cached = self._count = 0
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
        self._started = self._first = self._last = time.perf_counter()
        with _translated():
            generator, self._cached = self._engine._open(self._token_ids, self._sampling, self._adapter)
            read = self._prefill(generator)
            try:
                if read == len(self._token_ids):
                    yield from self._decode(generator)
            except GeneratorExit:  # whoever reads the stream has had enough; the prefix is sound all the same
                self._engine._keep(generator, self._token_ids[:read], self._sampling, self._adapter)
                raise
            self._engine._keep(generator, self._token_ids[:read], self._sampling, self._adapter)

    def _prefill(self, generator: og.Generator) -> int:
        """Read the prompt, up to a cancel; how many of its tokens the generator holds then."""
        read, end = self._cached, len(self._token_ids)
        while read < end and not self._stopped():
            step = self._engine._piece_tokens
            if end - read == step + 1:
                step -= 1  # the last piece gets two tokens, see above
            piece = self._token_ids[read : read + step]
            started = time.perf_counter()
            generator.append_tokens(piece)
            if len(piece) == step:
                self._engine._set_piece(step / (time.perf_counter() - started))
            read += len(piece)
        return read

    def _decode(self, generator: og.Generator) -> Iterator[Token]:
        pieces = self._engine._tokenizer.create_stream()
        while self._count < self._limit:
            if self._stopped():
                return
            generator.generate_next_token()
            self._last = time.perf_counter()
            if self._count == 0:
                self._first = self._last
            # one step gives several tokens where a draft was right
            for token_id in generator.get_sequence(0)[len(self._token_ids) + self._count :].tolist():
                if token_id in self._engine._stop_tokens:
                    self._finish_reason = "stop"
                    return
                if self._count == self._limit:
                    return
                self._count += 1
                yield Token(token_id, str(pieces.decode(token_id)))
            if generator.is_done():  # the library ended it: it does not list the token that did
                self._finish_reason = "stop"
                return

    def _stopped(self) -> bool:
        if self._is_cancelled or (self._ask is not None and self._ask()):
            self._finish_reason = "cancelled"
            return True
        return False


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"the model failed while generating: {error}") from error


def _overlay(options: EngineOptions) -> dict[str, Any]:
    """What is set on the box, over the model folder's own configuration.

    Keys and values are written in place: the model builder turns that off for an int8 cache, which then is there twice
    and copied for each token. Same tokens, half the memory (1,900 tokens: 28 MB instead of 55 after the prompt).
    """
    session = {"intra_op_num_threads": options.threads or cores()}
    return {"model": {"decoder": {"session_options": session}}, "search": {"past_present_share_buffer": True}}
