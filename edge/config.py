"""YAML to frozen dataclasses. An unknown key, a wrong type or a missing file is an error that names the line.

`load(cls, path)` is the only way in, for `configs/edge/*.yaml` here and for recipes and manifests elsewhere. A
dataclass is the schema: its fields are the keys, its defaults the defaults, and `__post_init__` may raise ValueError.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from edge.errors import ConfigError
from edge.sizes import parse_size

T = TypeVar("T")

Trust = Literal["auto", "support", "agreement"]
"""When the model's own words are shown: see `edge.answer`."""


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be more than 0")


def _require_share(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:  # NaN is refused too
            raise ValueError(f"{name} must be from 0 to 1")


@dataclass(frozen=True)
class ChunkConfig:
    max_tokens: int = 250  # of the embedder's tokenizer, heading line included
    overlap_tokens: int = 70

    def __post_init__(self) -> None:
        if self.max_tokens < 16 or not 0 <= self.overlap_tokens < self.max_tokens // 2:
            raise ValueError("max_tokens must be >= 16 and overlap_tokens less than half of it")


@dataclass(frozen=True)
class IngestConfig:
    max_file_bytes: int = 64 * 2**20
    parser_memory_bytes: int = 1024 * 2**20
    parser_timeout_sec: float = 60.0
    language: str = "auto"  # ISO 639-1, or "auto" to detect it per document
    chunk: ChunkConfig = ChunkConfig()

    def __post_init__(self) -> None:
        _require_positive(self, "max_file_bytes", "parser_memory_bytes", "parser_timeout_sec")


@dataclass(frozen=True)
class RerankConfig:
    """The bundle's cross-encoder, where it has one."""

    enabled: bool = False
    candidates: int = 16  # best hits that it reads, each in a run of its own

    def __post_init__(self) -> None:
        if not 2 <= self.candidates <= 100:
            raise ValueError("candidates must be from 2 to 100")


@dataclass(frozen=True)
class RetrieveConfig:
    top_k: int = 8
    depth: int = 50  # candidates taken from each arm before fusion
    exact_chunks: int = 5000  # an index of so many chunks is searched exactly, a larger one by sign bits first
    dense_weight: float = 0.5  # 0 is lexical only, 1 is dense only
    floor: float = 0.25  # least calibrated relevance of the best hit; below it the answer is an abstention
    tuned_floor: float = 0.1  # the same for a model that is tuned to say itself where it finds no answer
    rerank: RerankConfig = RerankConfig()

    def __post_init__(self) -> None:
        _require_positive(self, "top_k", "depth")
        if self.exact_chunks < 0:
            raise ValueError("exact_chunks must be 0 or more")
        _require_share(self, "dense_weight", "floor", "tuned_floor")


@dataclass(frozen=True)
class AnswerConfig:
    context_tokens: int = 2048  # prompt and answer together; at most the bundle's own
    max_tokens: int = 96  # of the answer
    max_passages: int = 3
    trust: Trust = "auto"
    support: float = 0.6  # least share of a sentence's content that a span must hold to be cited for it

    def __post_init__(self) -> None:
        _require_positive(self, "context_tokens", "max_tokens", "max_passages")
        _require_share(self, "support")
        if self.max_tokens >= self.context_tokens:
            raise ValueError("max_tokens must be less than context_tokens: the prompt needs room too")


@dataclass(frozen=True)
class EngineConfig:
    prefill_chunk_tokens: int = 64  # tokens of a prompt read in one piece, at most; less where that takes long
    prefix_caches: int = 1  # generators kept with their keys and values for the next request
    draft_tokens: int = 6  # most tokens guessed ahead from the prompt; 0 is no speculation
    draft_ngram: int = 3  # tokens that must match before the prompt is taken as a guess
    sessions: int = 1  # requests answered at the same time, each with keys and values of its own
    guided: bool = False  # whether answers may be held to a schema, which takes memory of its own
    prepare: bool = True  # keep a copy of the weights in this CPU's own layout, mapped instead of unpacked
    silence_sec: float = 120.0  # a model process that says nothing for so long is ended
    accelerator: Literal["auto", "off", "simulator"] = "auto"  # run the bundle's form for an NPU where one takes it

    def __post_init__(self) -> None:
        _require_positive(self, "sessions", "draft_ngram", "silence_sec")
        if self.prefill_chunk_tokens < 16:
            raise ValueError("prefill_chunk_tokens must be 16 or more")
        if self.prefix_caches < 0 or self.draft_tokens < 0:
            raise ValueError("prefix_caches and draft_tokens must be 0 or more")


@dataclass(frozen=True)
class FeedbackConfig:
    enabled: bool = False  # whether `edge ask` keeps questions, passages and answers in feedback.db


@dataclass(frozen=True)
class ServerConfig:
    """The daemon, `edge serve`."""

    listen: str = "127.0.0.1:8642"  # HOST:PORT, or unix:PATH
    sessions: int = 4  # answers generated at the same time, as far as the memory budget holds them
    queue: int = 32  # requests that may wait for one of them
    queue_sec: float = 60.0  # that one may wait
    keep_alive_sec: float = 300.0  # after the last request the model's memory is given back; 0: never
    request_sec: float = 300.0  # that one may take, waiting included
    connections: int = 128  # open at the same time
    max_body_bytes: int = 2 * 2**20  # of a request that is no document
    max_upload_bytes: int = 64 * 2**20  # of a document
    allowed_hosts: tuple[str, ...] = ()  # names beside localhost and addresses, that a Host header may give
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    drain_sec: float = 30.0  # that running answers get to end on SIGTERM
    log_prompts: bool = False  # whether questions and answers stand in the log, and in the traces
    traces: str | None = None  # URL of an OpenTelemetry collector
    watch_requests: int = 20  # the first ones of a new bundle, which decide whether it stays; 0: none
    watch_sec: float = 600.0  # for so long, at most

    def __post_init__(self) -> None:
        names = ("sessions", "queue_sec", "request_sec", "connections", "max_body_bytes", "max_upload_bytes")
        _require_positive(self, *names)
        for name in ("queue", "keep_alive_sec", "drain_sec", "watch_requests", "watch_sec"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.traces is not None and not self.traces.startswith(("http://", "https://")):
            raise ValueError("traces must be the URL of a collector, such as http://127.0.0.1:4318, or null")


@dataclass(frozen=True)
class EdgeConfig:
    """Everything `edge` can be told, with the defaults that `configs/edge/default.yaml` documents."""

    threads: int = 0  # 0: the cores this process may use
    memory_budget: str | int | None = None  # a size, "256MiB"; None: what the system allows

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError("threads must be 0 or more")
        if self.memory_budget is not None:
            try:
                parse_size(self.memory_budget)
            except ValueError as error:
                raise ValueError(f"memory_budget: {error}") from None

    ingest: IngestConfig = IngestConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    engine: EngineConfig = EngineConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    server: ServerConfig = ServerConfig()


def load(cls: type[T], path: Path) -> T:
    """Read a YAML file into the dataclass `cls`.

    :raises ConfigError: the file is missing, is not YAML, or does not fit `cls`; the message names file and line.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(cls, content, str(path))


def parse(cls: type[T], content: str, name: str) -> T:
    """Read YAML text into the dataclass `cls`; `name` stands for it in errors.

    :raises ConfigError: see `load`.
    """
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    if node is None:
        node = yaml.MappingNode("tag:yaml.org,2002:map", [])
    return typing.cast(T, _convert(cls, node, name, ""))


def to_plain(value: Any) -> Any:
    """A dataclass as plain dicts and lists, in field order, for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_yaml(value: Any) -> str:
    """A dataclass as YAML text, in field order."""
    return str(yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True, width=120))


def _fail(node: yaml.Node | None, name: str, message: str) -> ConfigError:
    line = f", line {node.start_mark.line + 1}" if node is not None and node.start_mark is not None else ""
    return ConfigError(f"{name}{line}: {message}")


def _convert(kind: Any, node: yaml.Node, name: str, key: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), node, name, key)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, node, name, key)
    if origin is Literal:
        value = _scalar(node, name, key)
        if value not in arguments:
            raise _fail(node, name, f"{key} is {value!r}; it must be one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (tuple, list):
        if not isinstance(node, yaml.SequenceNode):
            raise _fail(node, name, f"{key} must be a list")
        return origin(_convert(arguments[0], item, name, f"{key}[{i}]") for i, item in enumerate(node.value))
    if origin is dict:
        if not isinstance(node, yaml.MappingNode):
            raise _fail(node, name, f"{key} must be a mapping")
        return {str(k.value): _convert(arguments[1], v, name, f"{key}.{k.value}") for k, v in node.value}
    return _convert_scalar(kind, node, name, key)


def _convert_union(choices: tuple[Any, ...], node: yaml.Node, name: str, key: str) -> Any:
    """`X | None`, or a union of scalars, or of dataclasses: the first that fits; the first choice's error otherwise."""
    is_null = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
    if is_null and type(None) in choices:
        return None
    errors: list[ConfigError] = []
    for choice in choices:
        if choice is not type(None):
            try:
                return _convert(choice, node, name, key)
            except ConfigError as error:
                errors.append(error)
    raise errors[0]


def _convert_dataclass(cls: type, node: yaml.Node, name: str, key: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise _fail(node, name, f"{key or 'the file'} must be a mapping with the keys {', '.join(_field_names(cls))}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        field_name = str(key_node.value)
        where = f"{key}.{field_name}" if key else field_name
        if field_name not in hints or field_name not in _field_names(cls):
            known = ", ".join(_field_names(cls))
            raise _fail(key_node, name, f"unknown key {where!r}; known here: {known}")
        if field_name in values:
            raise _fail(key_node, name, f"{where} stands twice")
        values[field_name] = _convert(hints[field_name], value_node, name, where)
    for spec in dataclasses.fields(cls):
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and spec.name not in values:
            raise _fail(node, name, f"{key + '.' if key else ''}{spec.name} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise _fail(node, name, f"{key + ': ' if key else ''}{error}") from None


def _field_names(cls: type) -> list[str]:
    return [spec.name for spec in dataclasses.fields(cls)]


def _scalar(node: yaml.Node, name: str, key: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise _fail(node, name, f"{key} must be a single value")
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise _fail(node, name, f"{key} is {node.value!r}, which is no plain YAML value") from None
    finally:
        loader.dispose()


def _convert_scalar(kind: Any, node: yaml.Node, name: str, key: str) -> Any:
    if kind is Any:
        return yaml.SafeLoader("").construct_document(node)
    value = _scalar(node, name, key)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise _fail(node, name, f"{key} is {value!r}; it must be of type {getattr(kind, '__name__', kind)}")
