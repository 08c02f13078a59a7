"""What a box may load within its memory budget: asked before anything is loaded, and again for each question."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edge.config import EdgeConfig, IngestConfig
from edge.errors import EngineError
from edge.files import cache
from edge.sizes import mib

if TYPE_CHECKING:
    from edge.budget import Parts, Plan
    from edge.bundle import Bundle
    from edge.memory import Limit


class Admission:
    """The part of `edge.box.Box` that knows of memory.

    :param on_note: called with what a person should know: a context cut to what the memory budget holds.
    """

    index_path: Path
    config: EdgeConfig

    def __init__(self, on_note: Callable[[str], None] | None) -> None:
        self._on_note = on_note
        self.serves = False  # for a daemon: what its clients may ask counts, too
        self._plan: Plan | None = None

    @property
    def bundle(self) -> Bundle:
        raise NotImplementedError

    @property
    def threads(self) -> int:
        raise NotImplementedError

    @property
    def budget(self) -> Limit:
        """The memory that this process and its children may take: what was asked for, at most what the system allows.

        :raises BudgetExceeded: the system does not say how much there is.
        """
        from edge.footprint import budget_of

        return budget_of(self.config.memory_budget)

    @cached_property
    def parts(self) -> Parts:
        """What the memory ledger is made of. Ask for it before anything is loaded.

        :raises BundleError: there is no bundle, or it is damaged.
        """
        from edge.engine import prepared
        from edge.footprint import parts_of

        folder = None
        if "model_folder" in self.__dict__:
            folder = self.model_folder if self.model_folder != self._bundle_folder else None
        elif self.config.engine.prepare:
            folder = prepared.folder_of(self.bundle, cache())  # where it will be
        size = self.index_path.stat().st_size if self.index_path.is_file() else 0
        return parts_of(
            self.bundle,
            self.config,
            threads=self.threads,
            prepared=folder,
            index_bytes=size,
            serves=self.serves,
        )

    @cached_property
    def model_folder(self) -> Path:
        """The model's files: prepared for this CPU where that can be done, else as the bundle has them."""
        from edge.budget import preparing_refusal
        from edge.engine import prepared

        if not self.config.engine.prepare:
            return self._bundle_folder
        if found := prepared.find(self.bundle, cache()):
            return found
        if refusal := preparing_refusal(self.parts, self.budget):
            self._note(refusal)
            return self._bundle_folder
        self._note("preparing the weights for this CPU, once for this bundle (some seconds)")
        try:
            return prepared.prepare(self.bundle, cache())
        except EngineError as error:
            self._note(str(error))
            return self._bundle_folder

    def admit(self, *, last: bool = False) -> Plan:
        """What the memory budget holds. A limit may be lowered while a box is open: then less is loaded from now on.

        :param last: no other question follows the next one.
        :raises BudgetExceeded: not even a short context; says what would be needed.
        """
        from edge.budget import Use, fit
        from edge.memory import cgroup_limit

        before = self._plan
        if before is not None and before.use.one_question == last:
            now = cgroup_limit()
            spare = before.headroom_bytes // 2  # what others take comes and goes; loading anew for that takes seconds
            if now is None or now.bytes >= before.kept_bytes - spare:
                return before
        if "model_folder" not in self.__dict__:
            _ = self.model_folder  # may pack the weights, and then it takes less to load them
            self.__dict__.pop("parts", None)
        engine = self.config.engine
        wanted = Use(
            min(self.config.answer.context_tokens, self.bundle.manifest.model.context_tokens),
            sessions=engine.sessions,
            guided=engine.guided,
            prefixes=max(0, engine.prefix_caches - engine.sessions),  # a session's own is kept when it has ended
            one_question=last,
        )
        budget = self.budget
        plan = fit(self._parts_now(), budget, wanted)
        for refusal in plan.refusals:
            self._note(f"{refusal} in the memory budget of {mib(budget.bytes)} ({budget.source})")
        self._plan = plan
        self._give_up(before, plan)
        return plan

    def ingest_config(self) -> IngestConfig:
        """The configuration of an ingest, with the parser's limit cut to what the memory budget leaves it.

        :raises BudgetExceeded: that is not enough to read a plain file.
        """
        from edge.budget import parser_room
        from edge.footprint import PARSER_RESERVED_BYTES

        wanted = self.config.ingest
        room = parser_room(self.parts, self.budget) + PARSER_RESERVED_BYTES
        return dataclasses.replace(wanted, parser_memory_bytes=min(wanted.parser_memory_bytes, room))

    @property
    def _bundle_folder(self) -> Path:
        return self.bundle.path / self.bundle.manifest.model.path

    def _parts_now(self) -> Parts:
        """The parts; what retrieval has imported into this process does not go away with the embedder."""
        parts = self.parts
        if "embedder" not in self.__dict__:
            return parts
        libraries = dataclasses.replace(
            parts.parent,
            private_bytes=parts.parent.private_bytes + parts.retrieval.private_bytes,
            mapped_bytes=parts.parent.mapped_bytes + parts.retrieval.mapped_bytes,
        )
        return dataclasses.replace(parts, parent=libraries)

    def _give_up(self, before: Plan | None, plan: Plan) -> None:
        """Close what was opened under another plan; the next use opens it as the new one says."""
        from edge.memory import release_heap

        if plan.aside and not self.__dict__.keys().isdisjoint(("embedder", "reranker")):
            self._close("embedder")
            self._close("reranker")
            release_heap()
        kept = ("context_tokens", "piece_tokens", "sessions", "prefixes", "guided")
        if before is not None and (
            before.is_tight != plan.is_tight
            or any(getattr(before.use, name) != getattr(plan.use, name) for name in kept)
        ):
            self._close("engine")

    def _close(self, part: str) -> None:
        opened = self.__dict__.pop(part, None)
        if opened is not None:
            opened.close()

    def _note(self, text: str) -> None:
        if self._on_note is not None:
            self._on_note(text)
