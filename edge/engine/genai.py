"""The engine on ONNX Runtime GenAI. The only file that imports the generator library."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import onnxruntime_genai as og

from edge.bundle import ModelSection
from edge.engine.base import FinishReason, Message, Sampling, Stats
from edge.errors import EngineError, PromptTooLong
from edge.machine import cores
from edge.types import Token


class GenaiEngine:
    """A bundle's model in this process.

    The tokenizer is loaded at once, the weights on the first `start`: prompts can be built and refused without them.

    :param folder: the bundle's root.
    :param threads: 0 takes the cores this process may use (the library's own default is half of them).
    :raises EngineError: the model folder cannot be loaded.
    """

    def __init__(self, folder: Path, section: ModelSection, threads: int = 0) -> None:
        self.context_tokens = section.context_tokens
        self._stop_tokens = frozenset(section.stop_tokens)
        options = {"intra_op_num_threads": threads or cores()}
        model_folder = folder / section.path
        try:
            self._config = og.Config(str(model_folder))
            self._config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._tokenizer = og.Tokenizer(self._config)
            self._template = (folder / section.chat_template).read_text(encoding="utf-8")
        except (RuntimeError, OSError) as error:
            raise EngineError(f"{model_folder} cannot be loaded: {error}. Try `edge bundle verify`.") from error
        self._model: og.Model | None = None

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    def render(self, messages: Sequence[Message]) -> str:
        turns = json.dumps([{"role": turn.role, "content": turn.content} for turn in messages])
        return str(self._tokenizer.apply_chat_template(turns, template_str=self._template, add_generation_prompt=True))

    def load(self) -> None:
        """Load the weights now rather than on the first request.

        :raises EngineError: they are damaged, or memory ran out.
        """
        if self._model is None:
            try:
                self._model = og.Model(self._config)
            except (RuntimeError, MemoryError) as error:
                raise EngineError(f"the model cannot be loaded: {error}. Try `edge bundle verify`.") from error

    def start(self, token_ids: Sequence[int], sampling: Sampling) -> GenaiSession:
        room = self.context_tokens - len(token_ids)
        if room < 1:
            raise PromptTooLong(
                f"the prompt has {len(token_ids)} tokens and the context is {self.context_tokens}: "
                f"shorten it by {1 - room} tokens or more"
            )
        self.load()
        return GenaiSession(self._model, self._tokenizer, token_ids, sampling, self._stop_tokens, room)

    def close(self) -> None:
        self._model = None


class GenaiSession:
    """One request: prefill on the first step, then one token a step."""

    def __init__(
        self,
        model: og.Model,
        tokenizer: og.Tokenizer,
        token_ids: Sequence[int],
        sampling: Sampling,
        stop_tokens: frozenset[int],
        room: int,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._token_ids, self._sampling, self._stop_tokens = list(token_ids), sampling, stop_tokens
        self._limit = min(sampling.max_tokens, room)
        self._cancelled = False
        self._count = 0
        self._finish_reason: FinishReason = "length"
        self._started = self._first = self._last = 0.0

    def cancel(self) -> None:
        self._cancelled = True

    @property
    def stats(self) -> Stats:
        decode_sec = self._last - self._first
        return Stats(
            prompt_tokens=len(self._token_ids),
            completion_tokens=self._count,
            ttft_sec=self._first - self._started,
            decode_tok_per_sec=(self._count - 1) / decode_sec if self._count > 1 and decode_sec > 0 else 0.0,
            finish_reason=self._finish_reason,
        )

    def __iter__(self) -> Iterator[Token]:
        try:
            yield from self._run()
        except RuntimeError as error:
            raise EngineError(f"the model failed while generating: {error}") from error

    def _run(self) -> Iterator[Token]:
        self._started = self._first = self._last = time.perf_counter()
        # The KV cache is allocated for max_length when the generator is built: never more than this request can use.
        generator = og.Generator(self._model, self._params(len(self._token_ids) + self._limit))
        pieces = self._tokenizer.create_stream()
        if self._cancelled:
            self._finish_reason = "cancelled"
            return
        generator.append_tokens(self._token_ids)
        while self._count < self._limit:
            if self._cancelled:
                self._finish_reason = "cancelled"
                return
            generator.generate_next_token()
            token_id = int(generator.get_next_tokens()[0])
            self._last = time.perf_counter()
            if token_id in self._stop_tokens:
                self._finish_reason = "stop"
                if self._count == 0:
                    self._first = self._last
                return
            self._count += 1
            if self._count == 1:
                self._first = self._last
            yield Token(token_id, str(pieces.decode(token_id)))
            if generator.is_done():
                return

    def _params(self, max_length: int) -> og.GeneratorParams:
        params = og.GeneratorParams(self._model)
        options: dict[str, float | bool] = {"max_length": max_length, "do_sample": self._sampling.temperature > 0}
        if self._sampling.temperature > 0:
            options |= {
                "temperature": self._sampling.temperature,
                "top_p": self._sampling.top_p,
                "top_k": 0,
                "random_seed": self._sampling.seed,
            }
        params.set_search_options(**options)
        return params
