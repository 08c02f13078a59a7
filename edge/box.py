"""One box: a bundle, an index and a configuration, each opened on first use and closed together.

with Box.open(bundle=None, index=None, config=None) as box:
    print(box.ask("How long is the reset button held?").text)
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from edge import bundle as bundles
from edge.admission import Admission
from edge.config import EdgeConfig, load
from edge.errors import BundleError, PromptTooLong, UsageError
from edge.files import home
from edge.machine import cores
from edge.store.place import INDEX, index_of, indexes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.answer import Answer
    from edge.budget import Plan
    from edge.embed import OnnxEmbedder
    from edge.engine.accelerator import Choice
    from edge.engine.base import Sampling, Session
    from edge.engine.worker import WorkerEngine
    from edge.reading import Tuning
    from edge.rerank import OnnxReranker, Scored
    from edge.store.chunks import Store
    from edge.store.filters import Filter
    from edge.types import Hit, Token

Mode = Literal["rag", "model"]


def read_config(path: Path | None) -> EdgeConfig:
    """The configuration: from `path`, else from `config.yaml` in the home folder where it exists, else the defaults.

    :raises ConfigError: see `edge.config.load`.
    """
    default = home() / "config.yaml"
    if path is None and not default.exists():
        return EdgeConfig()
    return load(EdgeConfig, path or default)


def default_bundle() -> Path:
    """The bundle that was installed last (`edge deploy install`), else the folder `bundle`, in the home folder.

    The link is followed once: what was opened stays one bundle when the link is switched meanwhile.
    """
    current = home() / "current"
    return current.resolve() if os.path.lexists(current) else home() / "bundle"


def default_index(bundle: Path) -> Path:
    """The home folder's index for a bundle: `index.db`, but for an embedder that came later (`edge.store.place`)."""
    folder = home()
    if any(path.name != INDEX for path in indexes(folder)):
        with suppress(BundleError):  # it is said where the bundle is used
            return index_of(folder, bundles.load(bundle).manifest.embedder.fingerprint)
    return folder / INDEX


class Box(Admission):
    """What the commands work on. Nothing is opened before it is used: `edge index status` loads no model.

    Several threads may `ask` and `retrieve` at the same time: they search one after the other and generate together.

    :param on_note: called with what a person should know: a context cut to what the memory budget holds.
    """

    def __init__(
        self, bundle: Path, index: Path, config: EdgeConfig, on_note: Callable[[str], None] | None = None
    ) -> None:
        self.bundle_path, self.index_path, self.config = bundle, index, config
        self._opened = ExitStack()
        self.lock = threading.RLock()  # what is opened, the plan and the search: one thread at a time
        super().__init__(on_note)

    @classmethod
    def open(
        cls,
        *,
        bundle: Path | None,
        index: Path | None,
        config: Path | None,
        memory_budget: str | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Self:
        """A box with what is given, and the home folder's for what is not; `memory_budget` wins over the configuration.

        :raises ConfigError: the configuration does not hold.
        """
        settings = read_config(config)
        if memory_budget is not None:
            settings = dataclasses.replace(settings, memory_budget=memory_budget)
        bundle = bundle or default_bundle()
        return cls(bundle, index or default_index(bundle), settings, on_note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    @property
    def threads(self) -> int:
        """CPU threads for the model and the embedder."""
        return self.config.threads or cores()

    @cached_property
    def bundle(self) -> bundles.Bundle:
        return bundles.load(self.bundle_path)

    @cached_property
    def embedder(self) -> OnnxEmbedder:
        from edge.embed import OnnxEmbedder

        section = self.bundle.manifest.embedder
        embedder = OnnxEmbedder(self.bundle.path / section.path, section, self.threads)
        self._opened.callback(embedder.close)
        return embedder

    @cached_property
    def reranker(self) -> OnnxReranker:
        """The bundle's cross-encoder.

        :raises UsageError: it has none.
        """
        from edge.rerank import OnnxReranker

        section = self._reranker_section()
        reranker = OnnxReranker(self.bundle.path / section.path, section, self.threads)
        self._opened.callback(reranker.close)
        return reranker

    def _reranker_section(self) -> bundles.RerankerSection:
        section = self.bundle.manifest.reranker
        if section is None:
            raise UsageError(
                f"the bundle {self.bundle.manifest.name} has no reranker: build it with a recipe that names one "
                "(reranker:), or leave --rerank and retrieve.rerank.enabled out"
            )
        return section

    @cached_property
    def accelerator(self) -> Choice:
        """What runs the model; why it is not the bundle's form for an accelerator, where it has one, is noted."""
        from edge.engine.accelerator import Choice, choose

        if not self.bundle.manifest.targets:
            return Choice()
        choice = choose(self.bundle, self.config.engine.accelerator)
        for refusal in choice.refusals:
            self._note(refusal)
        return choice

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs the model."""
        entry = self.accelerator.entry
        return "CPUExecutionProvider" if entry is None else entry.provider

    @cached_property
    def engine(self) -> WorkerEngine:
        """The bundle's model in a process of its own, with the context that the memory budget holds."""
        from edge.engine.options import on_accelerator, options_for
        from edge.engine.worker import WorkerEngine

        model, config = self.bundle.manifest.model, self.config.engine
        options = options_for(model, config, self._plan or self.admit(), self.threads)
        template = bundles.chat_template(self.bundle)
        adapters = {adapter.name: self.bundle.path / adapter.path for adapter in model.adapters}
        folder = self.model_folder
        if (entry := self.accelerator.entry) is not None:
            folder, adapters, options = self.bundle.path / entry.path, {}, on_accelerator(options, entry)
        engine = WorkerEngine(
            folder,
            template,
            model.stop_tokens,
            options,
            adapters=adapters,
            silence_sec=config.silence_sec,
        )
        self._opened.callback(engine.close)
        return engine

    @cached_property
    def store(self) -> Store:
        """The index as it is, made with this bundle's embedder.

        :raises StoreMissing: nothing has been ingested.
        :raises StoreMismatch: another embedder or chunker made it.
        """
        return self.open_store()

    def close_store(self) -> None:
        """Close the index; the next use opens it anew."""
        self._close("store")

    def open_store(self, *, create: bool = False, any_identity: bool = False) -> Store:
        """Open the index; `create` makes it where there is none, `any_identity` takes one of another embedder too."""
        from edge.ingest.index import chunker_id
        from edge.store.chunks import Store

        if any_identity:
            store = Store.open(self.index_path)
        else:
            section = self.bundle.manifest.embedder
            store = Store.open(
                self.index_path,
                create=create,
                fingerprint=section.fingerprint,
                dim=section.dim,
                chunker=chunker_id(self.config.ingest.chunk),
            )
        return self._opened.enter_context(store)

    @property
    def _packed_folder(self) -> Path:
        return self.bundle.path / self.bundle.manifest.model.path

    def _config_for(self, plan: Plan) -> EdgeConfig:
        answer = dataclasses.replace(self.config.answer, context_tokens=plan.use.context_tokens)
        return dataclasses.replace(self.config, answer=answer)

    def retrieve(self, question: str, where: Filter | None = None, top_k: int | None = None) -> list[Hit]:
        """The hits for a question, best first; found in a process of its own where memory is short.

        :raises EdgeError: see `edge.retrieve.retrieve` and `open_store`.
        """
        if self._plan is not None and self._plan.aside:
            hits: list[Hit] = self._aside("retrieve", question=question, where=where, top_k=top_k)
            return hits
        from edge.retrieve import retrieve
        from edge.store.filters import Filter

        config = self.config.retrieve
        if top_k is not None:
            config = dataclasses.replace(config, top_k=top_k)
        with self.lock:
            reranker = self.reranker if config.rerank.enabled else None
            return retrieve(question, self.store, self.embedder, config, where or Filter(), reranker)

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> tuple[NDArray[np.float32], list[int]]:
        """Vectors of texts, (texts, dimension) of unit length, and the tokens of each; aside as in `retrieve`.

        :param truncate: of a text that is too long take the beginning.
        :raises PromptTooLong: a text has more tokens than the embedder reads.
        """
        if self._plan is not None and self._plan.aside:
            found: tuple[NDArray[np.float32], list[int]] = self._aside("embed", texts=texts, truncate=truncate)
            return found
        with self.lock:
            if truncate:
                texts = [self.embedder.cut(text) for text in texts]
            counts = [self.embedder.count_tokens(text) for text in texts]
            most = self.bundle.manifest.embedder.max_tokens
            for place, count in enumerate(counts):
                if count > most:
                    raise PromptTooLong(
                        f"input {place} has {count} tokens and the embedder reads {most}: shorten it by {count - most}"
                    )
            return self.embedder.embed_documents(texts), counts

    def rerank(self, query: str, texts: Sequence[str]) -> list[Scored]:
        """How well each text answers the query, in their order; aside as in `retrieve`.

        :raises UsageError: the bundle has no reranker; see `OnnxReranker.score` for others.
        """
        if self._plan is not None and self._plan.aside:
            found: list[Scored] = self._aside("rerank", query=query, texts=texts)
            return found
        with self.lock:
            return self.reranker.score(query, texts)

    def _aside(self, call: Literal["retrieve", "embed", "rerank"], **arguments: Any) -> Any:
        from edge.aside import Request, run_aside

        paths = (self.bundle_path.absolute(), self.index_path.absolute())
        return run_aside(Request(os.getpid(), *paths, self.config, call, arguments))

    def tuning(self, adapter: str | None) -> Tuning | None:
        """What the model was tuned for, with an adapter of the bundle or without one; None: for no answers of ours.

        :raises UsageError: there is no such adapter.
        """
        from edge.engine.base import check_adapter
        from edge.reading import Tuning

        model = self.bundle.manifest.model
        known = {entry.name: entry for entry in model.adapters}
        check_adapter(adapter, known)
        asked = model if adapter is None else known[adapter]
        return Tuning(asked.languages) if asked.answers == "marked" else None

    def ask(
        self,
        question: str,
        *,
        mode: Mode = "rag",
        where: Filter | None = None,
        top_k: int | None = None,
        sampling: Sampling | None = None,
        on_start: Callable[[Session], None] | None = None,
        on_token: Callable[[Token], None] | None = None,
        last: bool = False,
        adapter: str | None = None,
    ) -> Answer:
        """Answer a question: `rag` from the documents, `model` from the model alone.

        :param sampling: of `rag`; None is greedy, up to `answer.max_tokens`.
        :param last: no question follows.
        :param adapter: one of the bundle's; None is the model without.
        :raises UsageError: there is no such adapter, or no reranker where the configuration wants one.
        :raises BudgetExceeded: the memory budget does not hold the model with a context of use.
        :raises EdgeError: see `edge.answer`.
        """
        tuning = self.tuning(adapter)
        if mode == "rag" and self.config.retrieve.rerank.enabled:
            self._reranker_section()  # before the model is loaded for nothing
        with self.lock:
            plan = self.admit(last=last)
            config, engine = self._config_for(plan), self.engine
            search_first = plan.aside and mode == "rag"  # else both would take the same memory at the same time
            if not search_first:
                engine.load(wait=False)  # while this process imports the rest
        from edge.answer import answer, answer_closed_book, ignore

        special = self.bundle.manifest.model.special_tokens
        shown = on_token or ignore
        if mode == "model":
            return answer_closed_book(
                question, engine=engine, config=config, special_tokens=special, adapter=adapter, on_token=shown
            )
        return answer(
            question,
            retrieve=lambda text: self.retrieve(text, where, top_k),
            engine=engine,
            config=config,
            special_tokens=special,
            tuning=tuning,
            search_first=search_first,
            adapter=adapter,
            sampling=sampling,
            on_start=on_start or ignore,
            on_token=shown,
        )
