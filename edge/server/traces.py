"""OpenTelemetry traces (extra `otel`), off by default: nothing is imported before `server.traces` names a collector.

A span for each HTTP request, and below it `queue`, `retrieval` and `chat` (or `text_completion`, `embeddings`), named
after the conventions for generative AI: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. What the box
did is placed by the times that it measured. Questions, answers and names of documents are left out, but for
`server.log_prompts`. The variables OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS hold.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.config import ServerConfig
from edge.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

TRACES_BYTES = 12 * 2**20
"""Private memory that the libraries take of the daemon."""
_QUEUED_SPANS = 2048  # kept while the collector does not answer; further ones are dropped
_EXPORT_SEC = 3.0
_CLOSE_SEC = 2.0
_OPERATIONS = {"ask": "chat", "generate": "chat", "search": "retrieval", "embed": "embeddings"}
_SAMPLING = ("max_tokens", "temperature", "top_p", "seed")


@dataclass(frozen=True, slots=True)
class Done:
    """A piece of work that the box has done, or failed to; times in seconds."""

    do: str
    request: dict[str, Any]
    model: str  # as clients name it
    began: float  # since 1970
    waited_sec: float  # in the queue
    seconds: float  # all of it, waiting included
    result: dict[str, Any]  # empty where it failed
    error: str  # kind; empty where it did not
    said: str  # by the model

    @property
    def asked(self) -> str:
        """The text that it was asked."""
        if "messages" in self.request:
            return json.dumps(self.request["messages"], ensure_ascii=False)
        return str(self.request.get("question") or self.request.get("prompt") or self.request.get("query") or "")

    @property
    def answered(self) -> str:
        return str(self.result.get("answer", self.said))


class Traces:
    """The spans of one daemon.

    :param texts: whether questions and answers are among the attributes.
    """

    def __init__(self, exporter: SpanExporter, *, texts: bool) -> None:
        from importlib.metadata import version

        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "edge-slm"}
        self._provider = TracerProvider(
            resource=Resource.create({**name, SERVICE_VERSION: version("edge-slm")}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUED_SPANS))
        self._tracer = self._provider.get_tracer("edge.server")
        self._texts = texts

    @classmethod
    def of(cls, config: ServerConfig) -> Traces | None:
        """As the configuration says; None where it names no collector.

        :raises ConfigError: see `to`.
        """
        return None if config.traces is None else cls.to(config.traces, texts=config.log_prompts)

    @classmethod
    def to(cls, url: str, *, texts: bool) -> Traces:
        """To a collector that speaks OTLP over HTTP, at `url` or, where that has no path, below it at /v1/traces.

        :raises ConfigError: the extra `otel` is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise ConfigError(
                f"server.traces needs OpenTelemetry ({error}): pip install 'edge-slm[otel]', or set it to null"
            ) from None
        endpoint = url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1/traces"
        return cls(OTLPSpanExporter(endpoint, timeout=_EXPORT_SEC), texts=texts)

    def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for long."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SEC)

    def done(self, one: Done, _: str) -> None:
        """The spans of what the box did, below the request that is being served."""
        if (operation := _OPERATIONS.get(one.do)) is None:
            return
        end, entered = one.began + one.seconds, one.began + one.waited_sec
        if operation in ("retrieval", "embeddings"):
            self._span(operation, one, entered, end)
            return
        self._span("queue", one, one.began, entered)
        result = one.result
        rate = result.get("decode_tok_per_sec") or 0.0
        wrote = max(0, result.get("completion_tokens", 0) - 1) / rate if rate else 0.0
        wrote += result.get("ttft_sec", 0.0)
        generated = max(entered, end - wrote) if result else entered
        if one.do == "ask" and result:
            self._span("retrieval", one, max(entered, generated - result["retrieve_sec"]), generated)
            if not result["completion_tokens"]:
                return  # nothing was found, so the model was not asked
        self._span("text_completion" if "prompt" in one.request else "chat", one, generated, end)

    def _span(self, operation: str, one: Done, start: float, end: float) -> None:
        from opentelemetry.trace import SpanKind

        attributes = _attributes(operation, one)
        if self._texts:
            attributes |= _texts(operation, one)
        about = {"retrieval": "default", "queue": ""}.get(operation, one.model)
        span = self._tracer.start_span(
            f"{operation} {about}".strip(), kind=SpanKind.INTERNAL, attributes=attributes, start_time=_ns(start)
        )
        if one.error and operation != "queue":
            _failed(span, one.error)
        span.end(_ns(end))

    def middleware(self, app: ASGIApp, route_of: Callable[[Scope], str]) -> ASGIApp:
        """A span for each request; `route_of` is its path without what clients put into it, "" for none."""
        from opentelemetry.trace import SpanKind, use_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            route = route_of(scope) if scope["type"] == "http" else ""
            if not route:
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            attributes = {"http.request.method": scope["method"], "http.route": route}
            span = self._tracer.start_span(
                f"{scope['method']} {route}",
                context=propagator.extract(headers),
                kind=SpanKind.SERVER,
                attributes=attributes,
            )

            async def send_seen(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        _failed(span, str(message["status"]))
                await send(message)

            with use_span(span, end_on_exit=True):
                await app(scope, receive, send_seen)

        return traced


def _attributes(operation: str, one: Done) -> dict[str, Any]:
    if operation == "queue":
        return {}
    found: dict[str, Any] = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "edge-slm"}
    if operation == "retrieval":
        return found | {"gen_ai.data_source.id": "default"}
    found["gen_ai.request.model"] = one.model
    result, sampling = one.result, one.request.get("sampling") or {}
    found |= {f"gen_ai.request.{name}": sampling[name] for name in _SAMPLING if name in sampling}
    if operation == "embeddings":
        return found | ({"gen_ai.usage.input_tokens": result["tokens"]} if result else {})
    if result:
        found |= {
            "gen_ai.usage.input_tokens": result["prompt_tokens"],
            "gen_ai.usage.output_tokens": result["completion_tokens"],
            "gen_ai.usage.cache_read.input_tokens": result["cached_tokens"],
            "gen_ai.response.finish_reasons": (result["finish_reason"],),
            "gen_ai.response.time_to_first_chunk": result["ttft_sec"],
        }
    return found


def _texts(operation: str, one: Done) -> dict[str, str]:
    if operation == "retrieval":
        return {"gen_ai.retrieval.query.text": one.asked}
    if operation in ("chat", "text_completion"):
        return {"gen_ai.input.messages": one.asked, "gen_ai.output.messages": one.answered}
    return {}


def _failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
