"""Replies of Ollama's API as structs, for the OpenAPI document alone. Durations are in nanoseconds."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from edge.server.wire_replies import Citation, Shape


class OllamaError(Shape):
    error: str


class OllamaDetails(Shape):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(Shape):
    name: str
    model: str
    modified_at: str
    size: int  # bytes of the bundle
    digest: str
    details: OllamaDetails


class OllamaModels(Shape):
    models: list[OllamaModel]


class OllamaLoaded(Shape):
    name: str
    model: str
    size: int  # bytes of memory, by the ledger
    size_vram: int
    digest: str
    details: OllamaDetails
    expires_at: str
    context_length: int


class OllamaProcesses(Shape):
    models: list[OllamaLoaded]


class OllamaCard(Shape):
    license: str
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(Shape):
    version: str


class OllamaTop(Shape):
    token: str
    logprob: float


class OllamaLogprob(OllamaTop):
    top_logprobs: list[OllamaTop]


class _OllamaDone(Shape):
    """Durations in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    citations: list[Citation] | UnsetType = UNSET
    logprobs: list[OllamaLogprob] | UnsetType = UNSET


class OllamaCalledFunction(Shape):
    name: str
    arguments: dict[str, Any]


class OllamaCallMade(Shape):
    function: OllamaCalledFunction


class OllamaSaid(Shape):
    role: Literal["assistant"]
    content: str
    tool_calls: list[OllamaCallMade] | UnsetType = UNSET


class OllamaChatReply(_OllamaDone, kw_only=True):
    message: OllamaSaid


class OllamaGenerateReply(_OllamaDone, kw_only=True):
    response: str


class OllamaEmbeddings(Shape):
    model: str
    embeddings: list[list[float]]
    total_duration: int  # nanoseconds
    load_duration: int
    prompt_eval_count: int


class OllamaOneEmbedding(Shape):
    embedding: list[float]
