"""The memory ledger (pure): what takes how many bytes, what fits a budget, and what must be refused.

    plan = fit(parts, memory.limit(), Use(context_tokens=2048))
    plan.use.context_tokens                    # what fits, a multiple of 64 or what was wanted
    plan.lines                                 # who takes how much, and why

A line has two figures. `bytes` is what the part takes where there is room; that is what can be measured. `kept_bytes`
is what has to stay in memory for the work to go on at full speed; that is what is held against the budget. They differ
for mapped files alone: code that ran once at start, rows of the embedding table that no prompt uses. The kernel drops
those pages when room is short, and private memory it cannot drop (an edge box has no swap).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge.errors import BudgetExceeded
from edge.memory import Limit
from edge.sizes import mib

Kind = Literal["private", "mapped"]
Phase = Literal["always", "retrieve", "generate"]
"""When a part is there, or for mapped files when they are used: retrieving and generating follow each other."""

STEP_TOKENS = 64
"""A context length is chosen in these steps."""
USEFUL_TOKENS = 512
"""A shorter context holds no passage beside question and answer: it is refused."""
MIN_PIECE_TOKENS = 16
"""A prompt is read in smaller pieces, which is slower, before its context is cut; never in smaller ones than these."""
HEADROOM_BYTES = 6 * 2**20
HEADROOM_SHARE = 0.01
HEADROOM_MOST_BYTES = 32 * 2**20
"""Kept free of a budget: pages of the kernel itself (page tables, pipes, sockets), and what differs between runs."""


@dataclass(frozen=True, slots=True)
class Line:
    """One part of the ledger; bytes."""

    name: str
    kind: Kind
    bytes: int
    why: str
    group: str  # lines of one group can be measured only together
    phase: Phase = "always"
    kept_bytes: int = -1  # -1: all of it

    @property
    def kept(self) -> int:
        return self.bytes if self.kept_bytes < 0 else self.kept_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """What a process or a library takes: private and mapped bytes, and how much of the mapped ones has to stay."""

    private_bytes: int
    mapped_bytes: int = 0
    hot_bytes: int = 0  # of the mapped ones


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the ledger is made of, read from the bundle, the index, and this machine (`edge.footprint`)."""

    weights: Part
    prepared: bool  # packed for this CPU on disk and mapped, rather than packed in private memory on load
    preparing_bytes: int  # private memory of the process that packs them
    tokenizer_bytes: int
    kv_bytes_per_token: int
    activation_bytes_per_token: int  # of a prefill, per token of a piece
    logits_bytes: int  # of one row
    pruned_head: bool  # logits of the last token only
    prefill_chunk_tokens: int
    context_tokens: int  # the bundle's own, at most
    parent: Part  # the process that a person started: interpreter, command line, this package
    interpreter_bytes: int  # private, of one more process of this package
    retrieval: Part  # libraries of retrieval: numpy, SQLite, onnxruntime, tokenizers
    embedder: Part  # beyond its libraries, with one text of full length
    embedder_row_bytes: int  # activations of one more text at the same time
    threads: int
    sqlite_bytes: int
    ingest_bytes: int  # chunker, progress and SQLite of an ingest
    index_bytes: int  # vectors that are kept in memory
    worker: Part  # the engine's process: interpreter and generator library
    parser: Part  # the process that reads files, at its usual peak
    guidance_bytes: int = 0  # of answers that are held to a schema, whatever it is
    adapters: Part = Part(0)  # of the bundle, each once used; one at a time has to stay
    reranker: Part = Part(0)  # beyond its libraries, with one pair of full length; where it is asked


@dataclass(frozen=True, slots=True)
class Use:
    """What is to be done at the same time."""

    context_tokens: int
    sessions: int = 1  # requests that generate at the same time
    prefixes: int = 0  # prompts kept beside the sessions' own, for the next question on the same documents
    guided: bool = False  # answers may be held to a schema
    one_question: bool = False  # no prompt is kept from an earlier one while the documents are searched
    ingest: bool = False  # an `edge ingest` beside it
    piece_tokens: int = 0  # of a prompt, read at once; 0: as many as are configured


@dataclass(frozen=True, slots=True)
class Plan:
    """A ledger held against a budget; bytes."""

    budget_bytes: int
    use: Use  # with the context and the number of prefixes that fit
    wanted: Use
    lines: tuple[Line, ...]
    headroom_bytes: int
    aside: bool  # retrieval in a process of its own, which ends before the model needs the room
    refusals: tuple[str, ...]  # what was wanted and does not fit, for a person

    @property
    def bytes(self) -> int:
        """What it takes at the peak, headroom not counted: what can be measured."""
        return peak(self.lines)

    @property
    def kept_bytes(self) -> int:
        """What has to fit the budget, with headroom."""
        return peak(self.lines, kept=True) + self.headroom_bytes

    @property
    def is_tight(self) -> bool:
        """Whether files that are read once, or read ahead, would push out what is needed."""
        return self.budget_bytes < 2 * (self.bytes + self.headroom_bytes)


def peak(lines: Sequence[Line], *, kept: bool = False) -> int:
    """The sum of what is there at the same time, in the larger of the two phases.

    Of mapped files, what must be `kept` is needed only while a phase uses it: the model's while it generates.
    """
    sums = {"always": 0, "retrieve": 0, "generate": 0}
    for line in lines:
        phase = "generate" if kept and line.group == "files of the model" else line.phase
        sums[phase] += line.kept if kept else line.bytes
    return sums["always"] + max(sums["retrieve"], sums["generate"])


def headroom(budget_bytes: int) -> int:
    """What is kept free of a budget, in bytes."""
    return min(HEADROOM_BYTES + int(budget_bytes * HEADROOM_SHARE), HEADROOM_MOST_BYTES)


def lines_of(parts: Parts, use: Use, *, aside: bool = False) -> tuple[Line, ...]:
    """The ledger for a use: answering, and where it is asked for an ingest beside it."""
    return (*_parent(parts, aside), *_engine(parts, use), *_ingest(parts, use.ingest))


def fit(parts: Parts, budget: Limit, wanted: Use) -> Plan:
    """The largest context that the budget holds, then guidance, the most sessions and the most cached prefixes.

    :raises BudgetExceeded: not even `USEFUL_TOKENS` fit; says what is missing.
    """
    budget_bytes, limit = budget.bytes, min(wanted.context_tokens, parts.context_tokens)
    context, aside, piece = 0, False, 0
    for apart, tokens in _ways(parts):
        use = dataclasses.replace(wanted, piece_tokens=tokens)
        if (found := _largest_context(parts, budget_bytes, use, limit, apart)) > context:
            context, aside, piece = found, apart, tokens
        if context == limit:
            break
    if context < min(USEFUL_TOKENS, limit):
        raise BudgetExceeded(_too_small(parts, budget, wanted, limit))
    refusals = []
    if context < wanted.context_tokens:
        wanted = dataclasses.replace(wanted, piece_tokens=piece)
        refusals.append(_context_refusal(parts, budget_bytes, wanted, context, aside))
    wanted = dataclasses.replace(wanted, piece_tokens=piece)
    use, more = _extras(parts, budget_bytes, dataclasses.replace(wanted, context_tokens=context), aside)
    refusals += more
    lines = lines_of(parts, use, aside=aside)
    return Plan(budget_bytes, use, wanted, lines, headroom(budget_bytes), aside, tuple(refusals))


def _extras(parts: Parts, budget_bytes: int, wanted: Use, aside: bool) -> tuple[Use, list[str]]:
    """Guidance, then sessions beyond the first, then prefixes, as far as they fit beside a context; what does not."""
    use, refusals = _bare(wanted), list[str]()

    def missing(more: Use) -> int:
        return _kept(parts, more, budget_bytes, aside) - budget_bytes

    if wanted.guided:
        if (lack := missing(dataclasses.replace(use, guided=True))) <= 0:
            use = dataclasses.replace(use, guided=True)
        else:
            refusals.append(f"answers held to a schema need {mib(lack)} more; they are refused")
    for name, what in (("sessions", "sessions at a time"), ("prefixes", "cached prefixes")):
        least, most = getattr(use, name), getattr(wanted, name)
        fits = next(n for n in range(most, least - 1, -1) if n == least or missing(_with(use, name, n)) <= 0)
        if fits < most:
            refusals.append(f"{most} {what} need {mib(missing(_with(use, name, most)))} more; {fits} fit")
        use = _with(use, name, fits)
    return use, refusals


def _with(use: Use, name: str, value: int) -> Use:
    change: dict[str, Any] = {name: value}
    return dataclasses.replace(use, **change)


def _bare(use: Use) -> Use:
    """Without all that a context goes before."""
    return dataclasses.replace(use, sessions=1, prefixes=0, guided=False)


def most_prefixes(parts: Parts, plan: Plan) -> int:
    """How many cached prefixes of the full context the plan's budget would hold."""
    free = plan.budget_bytes - plan.kept_bytes
    return plan.use.prefixes + max(0, free // max(1, plan.use.context_tokens * parts.kv_bytes_per_token))


def ingest_lines(parts: Parts) -> tuple[Line, ...]:
    """The ledger of an `edge ingest`."""
    return _ingest(parts, True)


def parser_room(parts: Parts, budget: Limit) -> int:
    """Private bytes that an ingest leaves the process that reads its files.

    :raises BudgetExceeded: less than reading a plain file takes.
    """
    others = [line for line in ingest_lines(parts) if line.group != "parser"]
    room = budget.bytes - peak(others, kept=True) - headroom(budget.bytes)
    if room < parts.parser.private_bytes:
        least = _grown(budget.bytes - room + parts.parser.private_bytes, budget.bytes)
        raise BudgetExceeded(f"an ingest needs a memory budget of {mib(least)} and has {_named(budget)}")
    return room


def preparing_refusal(parts: Parts, budget: Limit) -> str | None:
    """Why the weights cannot be packed within the budget; None where they can."""
    need = parts.parent.private_bytes + parts.interpreter_bytes + parts.preparing_bytes + headroom(budget.bytes)
    if need <= budget.bytes:
        return None
    return (
        f"packing the weights for this CPU takes {mib(need)} once, which is more than {_named(budget)}: "
        "run `edge bundle prepare` while there is more, and they will take less from then on"
    )


def _parent(parts: Parts, aside: bool) -> list[Line]:
    phase: Phase = "retrieve" if aside else "always"
    group = "retrieval" if aside else "parent"
    why = "in a process that ends before the model is used" if aside else "kept for the next question"
    lines = _part("Python, command line", parts.parent, "interpreter and this package", "parent")
    if aside:
        lines.append(Line("retrieval: Python", "private", parts.interpreter_bytes, why, group, phase))
    return [
        *lines,
        *_part("retrieval: libraries", parts.retrieval, "numpy, SQLite, onnxruntime, tokenizers", group, phase),
        *_part("embedder", parts.embedder, f"weights, and a text of full length; {why}", "embedder", phase,
               files="files of the embedder"),
        *_part("reranker", parts.reranker, f"weights, and a pair of full length; {why}", "embedder", phase,
               files="files of the embedder"),
        Line("SQLite cache", "private", parts.sqlite_bytes, "pages of the index", group, phase),
        Line("vector index", "private", parts.index_bytes, "bits of the vectors, kept for the search", group, phase),
    ]  # fmt: skip


def _engine(parts: Parts, use: Use) -> list[Line]:
    session: Phase = "generate" if use.one_question else "always"
    state = "packed for this CPU on disk and mapped" if parts.prepared else "packed for this CPU in private memory"
    one = use.context_tokens * parts.kv_bytes_per_token
    chunk = min(use.piece_tokens or parts.prefill_chunk_tokens, use.context_tokens)
    rows = 1 if parts.pruned_head else chunk
    working = chunk * parts.activation_bytes_per_token + rows * parts.logits_bytes
    kv = f"{parts.kv_bytes_per_token:,} bytes a token x {use.context_tokens}"
    pieces = f"prefill in pieces of {chunk} tokens, logits of {rows}"
    lines = [
        *_part("engine: Python and libraries", parts.worker, "interpreter, generator", "worker"),
        Line("engine: tokenizer", "private", parts.tokenizer_bytes, "vocabulary and merges", "worker"),
        *_part("weights", parts.weights, state, "weights", files="files of the model"),
        *_part("adapters", parts.adapters, "each from its first request on", "adapters", files="files of the model"),
        Line("KV cache", "private", use.sessions * one, f"{kv} x {use.sessions} at a time", "session", session),
        Line("activations", "private", use.sessions * working, pieces, "session", session),
    ]
    if use.guided:
        lines.append(
            Line("guided decoding", "private", parts.guidance_bytes, "the vocabulary as bytes, from its first use on",
                 "guidance", session)
        )  # fmt: skip
    if use.prefixes:
        lines.append(
            Line("cached prefixes", "private", use.prefixes * one, f"{kv} x {use.prefixes}", "session", session)
        )
    return lines


def _ingest(parts: Parts, wanted: bool) -> tuple[Line, ...]:
    """A process of its own: nothing of its private memory is shared with the one that answers."""
    if not wanted:
        return ()
    private = parts.parent.private_bytes + parts.retrieval.private_bytes
    embedder = parts.embedder.private_bytes + (parts.threads - 1) * parts.embedder_row_bytes
    return (
        Line("ingest: Python and libraries", "private", private, "a process of its own", "ingest"),
        Line("ingest: embedder", "private", embedder, f"{parts.threads} texts of full length at a time", "ingest"),
        Line("ingest: the rest", "private", parts.ingest_bytes, "chunker, a document, pages of the index", "ingest"),
        *_part("ingest: parser", parts.parser, "reads files, detects languages; usual peak", "parser"),
    )


def _part(name: str, part: Part, why: str, group: str, phase: Phase = "always", *, files: str = "") -> list[Line]:
    lines = []
    if part.private_bytes:
        lines.append(Line(name, "private", part.private_bytes, why, group, phase))
    if part.mapped_bytes:
        group = files or "files of libraries"
        mapped = Line(f"{name}, mapped", "mapped", part.mapped_bytes, why, group, phase, part.hot_bytes)
        lines.append(mapped)
    return lines


def _kept(parts: Parts, use: Use, budget_bytes: int, aside: bool) -> int:
    return peak(lines_of(parts, use, aside=aside), kept=True) + headroom(budget_bytes)


def _ways(parts: Parts) -> Iterator[tuple[bool, int]]:
    """Ways of working, those that cost least time first: whether retrieval goes aside, and the size of a piece."""
    piece = parts.prefill_chunk_tokens
    yield False, piece
    yield True, piece
    while piece > MIN_PIECE_TOKENS:
        piece = max(MIN_PIECE_TOKENS, piece // 2)
        yield True, piece


def _largest_context(parts: Parts, budget_bytes: int, wanted: Use, limit: int, aside: bool) -> int:
    """0 where not even one step fits. `limit` itself need not be a multiple of the step."""
    steps: list[int] = [limit, *range(limit - limit % STEP_TOKENS, 0, -STEP_TOKENS)]
    for context in steps:
        use = dataclasses.replace(_bare(wanted), context_tokens=context)
        if _kept(parts, use, budget_bytes, aside) <= budget_bytes:
            return context
    return 0


def _context_refusal(parts: Parts, budget_bytes: int, wanted: Use, context: int, aside: bool) -> str:
    if wanted.context_tokens > parts.context_tokens == context:
        return f"context {wanted.context_tokens} is more than the bundle's own {context}"
    missing = _kept(parts, _bare(wanted), budget_bytes, aside) - budget_bytes
    return f"context {wanted.context_tokens} needs {mib(missing)} more; {context} fits"


def _too_small(parts: Parts, budget: Limit, wanted: Use, limit: int) -> str:
    least = dataclasses.replace(_bare(wanted), context_tokens=min(USEFUL_TOKENS, limit))
    need = min(
        _kept(parts, dataclasses.replace(least, piece_tokens=tokens), budget.bytes, apart)
        for apart, tokens in _ways(parts)
    )
    advice = f"{least.context_tokens} tokens of context need {mib(_grown(need, budget.bytes))}"
    weights = parts.weights.private_bytes + parts.weights.hot_bytes
    if budget.bytes < weights:
        return f"the weights alone take {mib(weights)}, which is more than {_named(budget)}; {advice}"
    return f"{_named(budget)} is too little to answer with: {advice}"


def _grown(need_bytes: int, budget_bytes: int) -> int:
    """The least budget, in whole MiB, that holds what needs `need_bytes` of another: the headroom grows with it."""
    plain = need_bytes - headroom(budget_bytes)
    budget = math.ceil(plain / 2**20) * 2**20
    while plain + headroom(budget) > budget:
        budget += 2**20
    return budget


def _named(budget: Limit) -> str:
    return f"the memory budget of {mib(budget.bytes)} ({budget.source})"
