"""The engine on ONNX Runtime GenAI, in this process.

Several requests share one thread, since each step uses all cores: `GenaiSession.steps` gives the thread back after each
token and after each piece of a prompt, and that is where a cancel takes effect too.

A token read alone goes through another kernel than tokens read together, and comes out a little different (no worse: as
near to the fp32 model). So that a prompt gives the same answer whether its beginning was kept or not, no piece has one
token, and only what was read as a prompt is kept, not what was generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edge.engine import library
from edge.engine.base import (
    EngineOptions,
    Message,
    Sampling,
    check_adapter,
    check_fits,
    check_sampling,
)
from edge.engine.library import Adapters, Config, Generator, GeneratorParams, Model, Tokenizer
from edge.engine.prefix import PrefixCache
from edge.engine.schemas import one_line
from edge.engine.session import GenaiSession, translated
from edge.errors import EngineError
from edge.machine import cores
from edge.mapped import MappedFiles, read_used

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
        # the memory ledger counts so many generators: each has keys and values for all of its length
        most = max(1, options.sessions, options.prefix_caches)
        self._cache: PrefixCache[Generator] = PrefixCache(options.prefix_caches, most)
        self._in_use = 0  # generators of sessions that have begun and not ended
        self._linked: TemporaryDirectory[str] | None = None
        try:
            if options.provider:
                from edge.engine import accelerator  # 5 MiB of modules that the CPU's form does not need

                accelerator.register(options.provider, library)
                self._linked = accelerator.on_this_machine(folder, options.provider)
                self._config = Config(self._linked.name)
            else:
                self._config = Config(str(folder))
                self._config.overlay(json.dumps(_overlay(options)))
            self._tokenizer = Tokenizer(self._config)
        except (RuntimeError, OSError) as error:
            raise EngineError(f"{folder} cannot be loaded: {error}. {VERIFY}") from error
        self._folder = folder
        self._adapter_files = dict(adapters or {})
        self._adapters: Adapters | None = None
        self._loaded: set[str] = set()  # adapters
        self._model: Model | None = None
        self._mapped: MappedFiles | None = None
        self._piece_tokens = options.prefill_chunk_tokens

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(_whole(text))

    def render(self, messages: Sequence[Message]) -> str:
        turns = json.dumps([{"role": turn.role, "content": _whole(turn.content)} for turn in messages])
        return self._tokenizer.apply_chat_template(turns, template=self._template)

    def load(self, *, wait: bool = True) -> None:
        """Load the weights now rather than on the first request.

        :raises EngineError: they are damaged, or memory ran out.
        """
        if self._model is None:
            try:
                self._model = Model(self._config)
            except (RuntimeError, MemoryError) as error:
                raise EngineError(f"the model cannot be loaded: {error}. {VERIFY}") from error
            if not self._options.provider:
                self._mapped = MappedFiles(self._folder, read_used(self._folder))
                self._mapped.settle(tight=self._options.tight_memory)
        elif self._mapped is not None:
            self._mapped.revive()

    def start(self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None) -> GenaiSession:
        """Begin a request; see `edge.engine.base.Engine`.

        Not to be run beside more of them than `EngineOptions.sessions`: their memory is not counted.
        """
        check_sampling(sampling)
        check_adapter(adapter, self._adapter_files)
        check_fits(len(token_ids), self.context_tokens)
        if not self._in_use:
            self.load()
        return GenaiSession(self, token_ids, sampling, adapter)

    def probe(self, token_ids: Sequence[int], adapter: str | None = None) -> NDArray[np.float32]:
        """Logits, (2, vocabulary), after all tokens but the last, read together, and after the last, read alone."""
        self.load()
        import numpy as np

        with translated():
            generator = self._generator(len(token_ids) + 1, Sampling(), adapter)
            rows = []
            for piece in (token_ids[:-1], token_ids[-1:]):
                generator.append_tokens(piece)
                rows.append(generator.last_logits())
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
        if self._linked is not None:
            self._linked.cleanup()

    def _set_piece(self, tok_per_sec: float) -> None:
        """Choose the size of the next piece, so that it takes `PIECE_SEC` on this machine as fast as it is now."""
        most = self._options.prefill_chunk_tokens
        self._piece_tokens = min(most, max(MIN_PIECE_TOKENS, int(tok_per_sec * PIECE_SEC)))

    def _open(self, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> tuple[Generator, int]:
        """A generator that holds the first tokens of the prompt, and how many."""
        is_kept = self._is_kept(sampling)
        if is_kept and (kept := self._cache.take(token_ids, adapter, self._in_use)):
            generator, held = kept
            generator.rewind_to(held)
            self._in_use += 1
            return generator, held
        self._cache.make_room(self._in_use)
        # Keys and values are allocated for max_length when a generator is built, so one that will be kept has it all.
        room = self.context_tokens if is_kept else min(self.context_tokens, len(token_ids) + sampling.max_tokens)
        generator = self._generator(room, sampling, adapter)
        self._in_use += 1
        return generator, 0

    def _is_kept(self, sampling: Sampling) -> bool:
        """Whether a generator may serve the next request: those that sample, are guided, or do not draft may not."""
        return bool(self._options.prefix_caches) and _is_plain(sampling)

    def _generator(self, max_length: int, sampling: Sampling, adapter: str | None) -> Generator:
        """A generator with nothing in it; its adapter is chosen once, before the first token is read."""
        assert self._model is not None  # whoever asks for one has loaded it
        params = self._params(self._model, max_length, sampling)
        if (guidance := sampling.guidance) is not None:  # the generator compiles it
            text = one_line(guidance.text) if guidance.kind == "json_schema" else guidance.text
            params.set_guidance(guidance.kind, text)
        generator = Generator(self._model, params)
        if adapter is not None:
            generator.set_active_adapter(self._with_adapter(self._model, adapter), adapter)
        return generator

    def _with_adapter(self, model: Model, name: str) -> Adapters:
        """The model's adapters, that one among them."""
        if self._adapters is None:
            self._adapters = Adapters(model)
        if name not in self._loaded:
            file = self._adapter_files[name]
            try:
                self._adapters.load(str(file), name)
            except (RuntimeError, OSError) as error:
                raise EngineError(f"{file} cannot be loaded: {error}. {VERIFY}") from error
            self._loaded.add(name)
        return self._adapters

    def _keep(self, generator: Generator, token_ids: Sequence[int], sampling: Sampling, adapter: str | None) -> None:
        if self._is_kept(sampling):
            self._cache.put(generator, token_ids, adapter)

    def _params(self, model: Model, max_length: int, sampling: Sampling) -> GeneratorParams:
        params = GeneratorParams(model)
        options: dict[str, float | bool] = {"max_length": max_length, "do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
                "random_seed": sampling.seed,
            }
        elif self._options.draft_tokens and _is_plain(sampling):
            drafts = {"ngram_size": self._options.draft_ngram, "max_draft_tokens": self._options.draft_tokens}
            params.set_speculative_options(drafts)
        params.set_search_options(options)
        return params


def _is_plain(sampling: Sampling) -> bool:
    """Greedy, unguided and without log-probabilities: drafts are sound, and so is what another such request kept."""
    return sampling.temperature <= 0 and sampling.guidance is None and sampling.logprobs is None


def _overlay(options: EngineOptions) -> dict[str, Any]:
    """What is set on the box, over the model folder's own configuration.

    Keys and values are written in place: the model builder turns that off for an int8 cache, which then is there twice
    and copied for each token. Same tokens, half the memory (1,900 tokens: 28 MB instead of 55 after the prompt).
    """
    session: dict[str, Any] = {"intra_op_num_threads": options.threads or cores()}
    if options.tight_memory:  # what is free goes back to the system: 4 MiB less, and no slower
        session |= {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}
    return {"model": {"decoder": {"session_options": session}}, "search": {"past_present_share_buffer": True}}


def _whole(text: str) -> str:
    """The text without what would cut it short, or be refused, on its way into the library: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
