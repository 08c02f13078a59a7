"""Replies as structs, for the OpenAPI document alone: nothing else loads them. Times are in seconds but where said."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class Shape(Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class ErrorBody(Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Shape):
    error: ErrorBody


class Usage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CachedTokens(Shape):
    cached_tokens: int


class Edge(Shape):
    """How the answer came about."""

    ttft_sec: float
    decode_tok_per_sec: float
    queued_sec: float
    # of answers from the documents
    abstained: bool | UnsetType = UNSET
    quoted: bool | UnsetType = UNSET
    unsupported: list[str] | UnsetType = UNSET  # sentences that no document supports
    marks: list[tuple[int, int, int | None]] | UnsetType = UNSET  # start and end of each marker, its annotation if any
    retrieve_sec: float | UnsetType = UNSET
    question: str | UnsetType = UNSET  # as it was understood
    feedback_id: int | UnsetType = UNSET


class UrlCitation(Shape):
    title: str
    url: str
    start_index: int  # of the marker, in characters of the content
    end_index: int


class _Cited(Shape):
    marker: int
    document: str
    name: str
    page: int | None  # 1-based
    start: int  # characters of the document's extracted text
    end: int
    score: float  # support of the sentence, 0..1
    text: str  # document text[start:end]
    sentence: str  # of the answer, that this supports


class Citation(_Cited):
    type: Literal["url_citation"]
    url_citation: UrlCitation


class ResponseAnnotation(_Cited):
    type: Literal["url_citation"]
    title: str
    url: str
    start_index: int
    end_index: int


class CalledFunction(Shape):
    name: str
    arguments: str


class CallMade(Shape):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Shape):
    role: Literal["assistant"]
    content: str | None
    annotations: list[Citation] | UnsetType = UNSET
    tool_calls: list[CallMade] | UnsetType = UNSET


class TopLogprob(Shape):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Shape):
    content: list[TokenLogprob]
    refusal: None


Finish = Literal["stop", "length", "tool_calls"]


class ChatChoice(Shape):
    index: int
    message: AssistantMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None


class ChatCompletion(Shape):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    edge: Edge


class TextLogprobs(Shape):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]


class TextChoice(Shape):
    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: TextLogprobs | None


class TextCompletion(Shape):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    edge: Edge


class ResponseText(Shape):
    type: Literal["output_text"]
    text: str
    annotations: list[ResponseAnnotation]
    logprobs: list[TokenLogprob]


class ResponseMessage(Shape, tag_field="type", tag="message"):
    id: str
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[ResponseText]


class ResponseCall(Shape, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["completed", "incomplete"]


class CacheDetails(Shape):
    cached_tokens: int
    cache_write_tokens: int


class ReasoningDetails(Shape):
    reasoning_tokens: int


class ResponseUsage(Shape):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: CacheDetails
    output_tokens_details: ReasoningDetails


class IncompleteDetails(Shape):
    reason: Literal["max_output_tokens"]


class ResponseObject(Shape):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    model: str
    output: list[ResponseMessage | ResponseCall]
    max_output_tokens: int | None
    parallel_tool_calls: Literal[False]
    previous_response_id: None
    reasoning: dict[str, None]
    store: Literal[False]
    background: Literal[False]
    temperature: float
    top_p: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    truncation: Literal["disabled"]
    metadata: dict[str, Any]
    usage: ResponseUsage
    edge: Edge


class Embedding(Shape):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str  # base64: little-endian float32


class EmbeddingUsage(Shape):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Shape):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(Shape):
    object: Literal["list"]
    data: list[ModelCard]
