"""One box: a bundle, an index and a configuration, each opened on first use and closed together.

with Box.open(bundle=None, index=None, config=None) as box:
    print(box.ask("How long is the reset button held?").text)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from edge import bundle as bundles
from edge.config import EdgeConfig, load
from edge.files import home
from edge.machine import cores

if TYPE_CHECKING:
    from edge.answer import Answer
    from edge.embed import OnnxEmbedder
    from edge.engine.genai import GenaiEngine
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


class Box:
    """What the commands work on. Nothing is opened before it is used: `edge index status` loads no model."""

    def __init__(self, bundle: Path, index: Path, config: EdgeConfig) -> None:
        self.bundle_path, self.index_path, self.config = bundle, index, config
        self._opened = ExitStack()

    @classmethod
    def open(cls, *, bundle: Path | None, index: Path | None, config: Path | None) -> Self:
        """A box with what is given, and the home folder's for what is not.

        :raises ConfigError: the configuration does not hold.
        """
        return cls(bundle or home() / "bundle", index or home() / "index.db", read_config(config))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    @property
    def threads(self) -> int:
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
    def engine(self) -> GenaiEngine:
        from edge.engine.genai import GenaiEngine

        engine = GenaiEngine(self.bundle.path, self.bundle.manifest.model, threads=self.threads)
        self._opened.callback(engine.close)
        return engine

    @cached_property
    def store(self) -> Store:
        """The index as it is, made with this bundle's embedder.

        :raises StoreMissing: nothing has been ingested.
        :raises StoreMismatch: another embedder or chunker made it.
        """
        return self.open_store()

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

    def retrieve(self, question: str, where: Filter | None = None, top_k: int | None = None) -> list[Hit]:
        """The hits for a question, best first."""
        import dataclasses

        from edge.retrieve import retrieve
        from edge.store.filters import Filter

        config = self.config.retrieve
        if top_k is not None:
            config = dataclasses.replace(config, top_k=top_k)
        return retrieve(question, self.store, self.embedder, config, where or Filter())

    def ask(
        self,
        question: str,
        *,
        mode: Mode = "rag",
        where: Filter | None = None,
        on_token: Callable[[Token], None] | None = None,
    ) -> Answer:
        """Answer a question: `rag` from the documents, `model` from the model alone.

        :raises EdgeError: see `edge.answer`.
        """
        from edge.answer import answer, answer_closed_book, ignore

        special = self.bundle.manifest.model.special_tokens
        shown = on_token or ignore
        if mode == "model":
            return answer_closed_book(
                question, engine=self.engine, config=self.config, special_tokens=special, on_token=shown
            )
        return answer(
            question,
            retrieve=lambda text: self.retrieve(text, where),
            engine=self.engine,
            config=self.config,
            special_tokens=special,
            on_token=shown,
        )
