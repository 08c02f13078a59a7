"""Requests as clients send them: the shapes of OpenAI's API, and what this daemon adds to them.

A key that is not known is refused, and so is a value that would be ignored: see `unsupported`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from edge.errors import UsageError

Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Stops = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=8)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]


class Rag(Struct, forbid_unknown_fields=True):
    """Answer from the documents. `index` has one value so far: a daemon serves one index."""

    index: Literal["default"] = "default"
    top_k: Annotated[int, Meta(ge=1, le=100)] | None = None
    filter: Annotated[list[str], Meta(max_length=20)] = []
    draft: bool = False  # in a stream: send what the model writes before it is checked, as `delta.draft`


class TextPart(Struct, tag_field="type", tag="text"):
    text: str


class Function(Struct):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    function: Function
    type: Literal["function"] = "function"


class Called(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: Called
    type: Literal["function"] = "function"


class ChatMessage(Struct):
    """One turn. Content of several parts must be text."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Struct):
    include_usage: bool = False


class JsonSchema(Struct):
    name: str
    schema: dict[str, Any] | bool | UnsetType = UNSET
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Struct, forbid_unknown_fields=True):
    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=1000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    seed: Seed | None = None
    stop: str | Stops | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=32)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    rag: Rag | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    # What changes no answer here is taken and not looked at.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionRequest(Struct, forbid_unknown_fields=True):
    model: str
    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    seed: Seed | None = None
    stop: str | Stops | None = None
    echo: bool | None = None
    n: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    model: str
    input: str | Annotated[list[str], Meta(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class SearchRequest(Struct, forbid_unknown_fields=True):
    query: Annotated[str, Meta(min_length=1)]
    top_k: Annotated[int, Meta(ge=1, le=100)] = 8
    filter: Annotated[list[str], Meta(max_length=20)] = []


class RerankDocument(Struct, forbid_unknown_fields=True):
    text: str


class RerankRequest(Struct, forbid_unknown_fields=True):
    """Cohere's and Jina's. `max_chunks_per_doc`, `rank_fields` and the like are refused: a document is read once."""

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1, max_length=1000)]
    model: str | None = None
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool = False


class FeedbackRequest(Struct, forbid_unknown_fields=True):
    feedback_id: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    thumb: Literal["up", "down"]
    correction: str | None = None


def unsupported(request: ChatRequest | CompletionRequest) -> None:
    """Refuse what the engine cannot do rather than leave it out.

    :raises UsageError: names the parameter.
    """
    if request.n not in (None, 1):
        raise UsageError("n: one answer is made for a request; send it again with another seed for more")
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(request, name):
            raise UsageError(f"{name} is not supported: leave it out, or send 0")
    if request.logit_bias:
        raise UsageError("logit_bias is not supported: leave it out")
    if isinstance(request, CompletionRequest):
        if request.best_of not in (None, 1):
            raise UsageError("best_of is not supported: leave it out, or send 1")
        for name in ("echo", "suffix"):
            if getattr(request, name):
                raise UsageError(f"{name} is not supported: leave it out")


def decode(body: bytes, kind: Any) -> Any:
    """JSON bytes to a request.

    :raises UsageError: they are no JSON, or do not fit; says where.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the request cannot be read: {error}") from None
    except RecursionError:
        raise UsageError("the request cannot be read: it is nested too deeply") from None
