"""What the box's process does for each kind of request; see `edge.server.child` for the wire."""

from __future__ import annotations

import base64
import dataclasses
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.box import Box
from edge.config import EdgeConfig, parse
from edge.errors import EdgeError, PromptTooLong, StoreError, UsageError

if TYPE_CHECKING:
    from edge.engine.base import Sampling, Session
    from edge.store.filters import Filter
    from edge.types import Token

BESIDE = 4
"""Requests that need no generator, worked on beside those that do."""

Emit = Callable[[dict[str, Any]], None]


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class Work:
    """A box that many threads work on.

    :param on_state: called with what the daemon shows of it, when that changed.
    """

    def __init__(self, settings: Mapping[str, Any], on_state: Callable[[dict[str, Any]], None]) -> None:
        config = parse(EdgeConfig, settings["config"], "the configuration")
        self._box = Box(Path(settings["bundle"]), Path(settings["index"]), config, self._noted)
        self._box.serves = True
        self._documents, self._beside_bytes = Path(settings["documents"]), settings["beside_bytes"]
        self._on_state, self._notes = on_state, list[str]()
        self._sessions: dict[int, Session | None] = {}  # of each request; None before it asks the model
        self._lock = threading.Lock()
        self._told: dict[str, Any] = {}

    @property
    def sessions(self) -> int:
        """Answers that may be generated at the same time, if the memory budget holds them."""
        return self._box.config.engine.sessions

    def expect(self, number: int) -> None:
        """A request came in: from now on it can be cancelled."""
        with self._lock:
            self._sessions[number] = None

    def forget(self, number: int) -> None:
        with self._lock:
            self._sessions.pop(number, None)

    def cancel(self, number: int) -> None:
        with self._lock:
            session = self._sessions.pop(number, None)
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """Close all that was opened, the model's process too."""
        self._box.__exit__()

    def serve(self, request: Mapping[str, Any], send: Emit) -> None:
        """Work on one request; the last message has the key `result` or `error`."""
        number = request["id"]
        try:
            result = self._run(request, lambda message: send({"id": number, **message}))
            send({"id": number, "result": result})
        except EdgeError as error:
            send({"id": number, "error": type(error).__name__, "message": str(error)})
        except Exception as error:  # noqa: BLE001  a bug costs one request, and is told as one
            traceback.print_exc()
            send({"id": number, "error": "EngineError", "message": f"unexpected: {type(error).__name__}: {error}"})
        finally:
            self.forget(number)

    def _run(self, request: Mapping[str, Any], emit: Emit) -> Any:
        try:
            return getattr(self, f"_{request['do']}")(request, emit)
        except Cancelled:
            return None
        except StoreError:
            with self._box.lock:
                self._box.close_store()  # the next request opens it anew, whatever happened to the file
            raise

    # -- answers ------------------------------------------------------------------------------------------------

    def _ask(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """A question about the documents, as `edge ask` answers it; earlier turns make it stand alone."""
        from edge.chat import Turn, stand_alone
        from edge.plain import answer_json, explain_json, marked_at

        box, where = self._box, self._reach(request)
        question = request["question"]
        if history := [Turn(*turn) for turn in request.get("history", ())]:
            with box.lock:
                box.admit()
                engine = box.engine
            special = box.bundle.manifest.model.special_tokens
            question = stand_alone(
                question,
                history,
                engine=engine,
                retrieve=lambda text: box.retrieve(text, where),
                special_tokens=special,
            )
        self._check_wanted(request)
        answer = box.ask(
            question,
            where=where,
            top_k=request.get("top_k"),
            sampling=self._sampling(request, box.config.answer.max_tokens),
            adapter=request.get("adapter"),
            on_start=lambda session: self._started(request, session),
            on_token=lambda token: emit(_token(token)),
        )
        self._tell()
        text, marks = marked_at(answer)
        result = answer_json(answer) | {"question": question, "marked": text, "marks": marks}
        if request.get("explain"):
            result |= explain_json(answer)
        for citation in result["citations"]:
            citation["name"] = self._name(citation["document"])
        return result | self._kept(question, answer)

    def _generate(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """The model alone, on a conversation or on plain text."""
        from edge.engine.base import Message
        from edge.prompt import defuse

        box = self._box
        box.tuning(request.get("adapter"))
        with box.lock:
            plan, engine = box.admit(), box.engine
        if (text := request.get("prompt")) is None:
            special = box.bundle.manifest.model.special_tokens
            turns = [Message(turn["role"], defuse(turn["content"], special)) for turn in request["messages"]]
            text = engine.render(turns)
        token_ids = engine.encode(text)
        if not token_ids:
            raise UsageError("the prompt is empty: the model needs a token to go on from")
        room = plan.use.context_tokens - len(token_ids)
        sampling = self._sampling(request, max(1, room))
        wanted = request["sampling"].get("max_tokens")
        if room < 1 or (wanted is not None and wanted > room):
            over = 1 - room if wanted is None else wanted - room
            raise PromptTooLong(
                f"the prompt has {len(token_ids)} tokens, {wanted or 'at least 1'} are asked for, and the context is "
                f"{plan.use.context_tokens}: shorten the prompt or max_tokens by {over} tokens"
            )
        self._tell()
        session = engine.start(token_ids, sampling, adapter=request.get("adapter"))
        self._started(request, session)
        for token in session:
            emit(_token(token))
        return dataclasses.asdict(session.stats)

    def _load(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """Have everything ready for the first question."""
        box = self._box
        with box.lock:
            box.admit()
            box.engine.load()
        self._tell()
        return {"context_tokens": box.engine.context_tokens}

    # -- documents ----------------------------------------------------------------------------------------------

    def _search(self, request: Mapping[str, Any], emit: Emit) -> list[dict[str, Any]]:
        from edge.plain import hit_json

        with self._box.lock:
            self._box.admit()
        hits = self._box.retrieve(request["query"], self._reach(request), request.get("top_k"))
        return [
            {"name": self._name(hit.document), "title": hit.title, "score": round(hit.score, 6)} | hit_json(hit)
            for hit in hits
        ]

    def _embed(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """Vectors as little-endian float32 in base64, and the tokens that they took."""
        with self._box.lock:
            self._box.admit()
        vectors, counts = self._box.embed(request["texts"], truncate=request.get("truncate", False))
        rows = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        return {"vectors": rows, "tokens": sum(counts)}

    def _rerank(self, request: Mapping[str, Any], emit: Emit) -> list[dict[str, Any]]:
        """What the reranker says of each text, in their order."""
        with self._box.lock:
            self._box.admit()
        return [dataclasses.asdict(one) for one in self._box.rerank(request["query"], request["texts"])]

    def _status(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """Counts of the index, and the documents that came by other ways than HTTP."""
        from edge.store.upkeep import status

        with self._box.lock:
            store = self._box.store
            state = status(store, self._box.config.retrieve.exact_chunks)
            known = sorted(store.known())
        shared = [source for source in known if not source.startswith(f"{self._documents}/")]
        return {"documents": state.documents, "chunks": state.chunks, "bytes": state.bytes, "shared": shared}

    def _source(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any] | None:
        """The extracted text of a document within reach, or the tables of a database; None where there is none."""
        source, reach = request["document"], self._reach(request).reach
        if reach is None or not reach.holds(source):
            return None
        with self._box.lock:
            found, parts = self._box.store.document(source), list[str]()
            if found is None:
                parts = sorted(one for one in self._box.store.known() if one.startswith(f"{source}#"))
        if found is None and not parts:
            return None
        about = {"document": source, "name": self._name(source), "parts": parts}
        return about | ({"title": found.title, "text": found.text} if found else {"title": "", "text": ""})

    def _rate(self, request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        from edge import feedback

        if not self._box.config.feedback.enabled:
            raise UsageError("feedback is off on this box: its owner can set `feedback: {enabled: true}`")
        feedback.rate(feedback.default_path(), request["feedback_id"], request["thumb"], request.get("correction"))
        return {"feedback_id": request["feedback_id"], "thumb": request["thumb"]}

    # -- inside -------------------------------------------------------------------------------------------------

    def _started(self, request: Mapping[str, Any], session: Session) -> None:
        with self._lock:
            if request["id"] not in self._sessions:
                raise Cancelled
            self._sessions[request["id"]] = session

    def _check_wanted(self, request: Mapping[str, Any]) -> None:
        with self._lock:
            if request["id"] not in self._sessions:
                raise Cancelled

    def _sampling(self, request: Mapping[str, Any], most: int) -> Sampling:
        from edge.engine.base import Sampling

        asked = dict(request.get("sampling") or {})
        asked["max_tokens"] = min(asked.get("max_tokens") or most, most)
        if stop := asked.get("stop"):
            asked["stop"] = tuple(stop)
        if guidance := asked.get("guidance"):
            from edge.engine.base import Guidance

            asked["guidance"] = Guidance(**guidance)
        return Sampling(**asked)

    def _reach(self, request: Mapping[str, Any]) -> Filter:
        from edge.store.filters import Filter, Reach

        where = Filter.parse(request.get("filter") or ())
        reach = Reach(str(self._documents), f"{self._documents}/{request['namespace']}")
        return dataclasses.replace(where, reach=reach)

    @staticmethod
    def _name(source: str) -> str:
        """What a person calls a document: its file's name."""
        return source.rpartition("/")[2]

    def _kept(self, question: str, answer: Any) -> dict[str, Any]:
        from edge import feedback

        box = self._box
        if not box.config.feedback.enabled:
            return {}
        shown = box.config.answer.max_passages
        try:
            number = feedback.record(feedback.default_path(), question, answer, box.bundle.digest, max_passages=shown)
        except StoreError as error:  # the answer is there all the same
            self._noted(f"the answer was not kept: {error}")
            return {}
        return {"feedback_id": number}

    def _noted(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _tell(self) -> None:
        """Say what this process takes of memory, by the ledger, where it has changed."""
        from edge.budget import ingest_lines, peak

        with self._box.lock:
            plan, engine = self._box.admit(), self._box.engine
            beside = peak(ingest_lines(self._box.parts), kept=True)
        lines = [[line.name, line.kind, line.bytes] for line in plan.lines]
        if self._beside_bytes:
            lines.insert(0, ["daemon: HTTP", "private", self._beside_bytes])
        state = {
            "lines": lines, "budget_bytes": plan.budget_bytes, "context_tokens": plan.use.context_tokens,
            "sessions": plan.use.sessions, "engine_pid": engine.pid, "notes": self._notes,
            "bundle": self._box.bundle.digest, "ingest_fits": plan.kept_bytes + beside <= plan.budget_bytes,
            "provider": self._box.provider, "fallbacks": len(self._box.accelerator.refusals),
        }  # fmt: skip
        if state != self._told:
            self._told = state
            self._on_state(state)


def _token(token: Token) -> dict[str, Any]:
    logprobs = {"logprobs": dataclasses.asdict(token.logprobs)} if token.logprobs is not None else {}
    return {"token": token.text, "token_id": token.id, **logprobs}
