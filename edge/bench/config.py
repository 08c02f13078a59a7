"""What a benchmark is told: how often, how long, on what. Files of it are in configs/bench."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge.config import _require_positive


@dataclass(frozen=True)
class LatencyConfig:
    prompt_tokens: tuple[int, ...] = (256, 1024, 64, 1792)  # the first is what the metrics without a length are of
    new_tokens: int = 128
    cold_starts: int = 5  # whole processes, from start to first token
    speculation: bool = False  # guess ahead as configured; a model left to itself goes in circles, and guesses well

    def __post_init__(self) -> None:
        if not self.prompt_tokens or min(self.prompt_tokens) < 1:
            raise ValueError("prompt_tokens must name at least one length, each 1 or more")
        if len(set(self.prompt_tokens)) < len(self.prompt_tokens):
            raise ValueError("prompt_tokens names a length twice")
        _require_positive(self, "new_tokens")


@dataclass(frozen=True)
class RagConfig:
    questions: int = 6  # each asked cold, then with a follow-up and with other documents
    questions_file: Path | None = None  # lines of {"question": "..."}; null: sentences of the indexed documents

    def __post_init__(self) -> None:
        _require_positive(self, "questions")


@dataclass(frozen=True)
class RetrievalConfig:
    queries: int = 50
    index_chunks: tuple[int, ...] = (1_000, 10_000)  # sizes besides that of the index itself
    top_k: int = 10  # nearest chunks that are asked for, and compared with the exact ones

    def __post_init__(self) -> None:
        _require_positive(self, "queries", "top_k")
        if self.index_chunks and min(self.index_chunks) < self.top_k:
            raise ValueError("index_chunks must be top_k or more")


@dataclass(frozen=True)
class MemoryConfig:
    questions: int = 12  # about the documents, asked of one process
    runs: int = 2  # whole processes per figure; the largest peak counts
    sample_interval_sec: float = 0.02

    def __post_init__(self) -> None:
        _require_positive(self, "questions", "runs", "sample_interval_sec")


@dataclass(frozen=True)
class EnergyConfig:
    seconds: float = 10.0  # of idling, and of work, at least

    def __post_init__(self) -> None:
        _require_positive(self, "seconds")


@dataclass(frozen=True)
class PeerConfig:
    formats: tuple[str, ...] = ("Q8_0",)  # of llama.cpp; the first is the one at equal quality
    context_tokens: int = 2048  # that llama-server is started with
    timeout_sec: float = 120.0  # for one answer; also how long it may be silent
    server_arguments: tuple[str, ...] = ()  # more for llama-server, e.g. ["--cache-ram", "0"]

    def __post_init__(self) -> None:
        _require_positive(self, "context_tokens", "timeout_sec")
        if len(set(self.formats)) < len(self.formats):
            raise ValueError("formats names one twice")


@dataclass(frozen=True)
class BenchConfig:
    """Everything that a run can be told, with the defaults that configs/bench/default.yaml documents."""

    repetitions: int = 5  # timed, after the warm-up
    warmup: int = 1  # repetitions that are not counted
    seed: int = 0  # draws prompts, questions and queries
    text: Path | None = None  # a file, or a folder of .txt and .md files, that prompts are cut from
    latency: LatencyConfig = LatencyConfig()
    rag: RagConfig = RagConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    memory: MemoryConfig = MemoryConfig()
    energy: EnergyConfig = EnergyConfig()
    peer: PeerConfig = field(default_factory=PeerConfig)

    def __post_init__(self) -> None:
        _require_positive(self, "repetitions")
        if self.warmup < 0:
            raise ValueError("warmup must be 0 or more")
