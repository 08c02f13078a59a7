"""A peer behind an address: any server that speaks OpenAI's /v1/completions or /v1/chat/completions, streamed.

llama-server adds `timings` to its last event, and those are taken as its own account. Other servers say at most how
many tokens there were (`usage`); where they say nothing, pieces of text are counted.
"""

from __future__ import annotations

import math
from typing import Any

from edge.bench.side import Timing
from edge.bench.stream import Endpoint, StatusError
from edge.bench.text import Sample
from edge.errors import PeerError

_ABSENT = (404, 405, 501)


class OpenAiPeer:
    """A peer at a URL, e.g. http://127.0.0.1:11434.

    :param model: its name there; None takes the first that /v1/models lists.
    :raises PeerError: nothing there speaks this protocol.
    """

    def __init__(self, url: str, timeout_sec: float, model: str | None = None) -> None:
        self.name = url
        self._endpoint = Endpoint(url.rstrip("/"), timeout_sec)
        self.model = model or self._first_model()
        self._chat = False
        self._is_llama_server = self._has_props()
        self._find_route()

    def generate(self, prompt: Sample, max_tokens: int, *, reuse: bool = False) -> Timing:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._is_llama_server:
            body["cache_prompt"] = reuse
        if self._chat:
            body["messages"] = [{"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = prompt.text
        return self._read(self.route, body, prompt, max_tokens)

    @property
    def route(self) -> str:
        """Which of the two it serves."""
        return "/v1/chat/completions" if self._chat else "/v1/completions"

    def forget(self) -> None:
        """The peer's cache is its own; prompts that must not hit it begin unlike every other."""

    def _read(self, path: str, body: dict[str, Any], prompt: Sample, max_tokens: int) -> Timing:
        arrivals: list[float] = []
        text: list[str] = []
        said: dict[str, Any] = {}
        ended = False
        for arrived, event in self._endpoint.post(path, body):
            if event.get("error"):
                raise PeerError(f"{self.name} reports an error: {str(event['error'])[:200]}")
            said |= {key: event[key] for key in ("usage", "timings") if isinstance(event.get(key), dict)}
            for choice in _dicts(event.get("choices")):
                piece = choice.get("text") if "text" in choice else _dict(choice.get("delta")).get("content")
                ended = ended or choice.get("finish_reason") is not None
                if isinstance(piece, str) and piece:
                    arrivals.append(arrived)
                    text.append(piece)
        return timing_of(self.name, arrivals, "".join(text), said, ended, prompt, max_tokens)

    def _first_model(self) -> str:
        try:
            listed = _dicts(_dict(self._endpoint.get("/v1/models")).get("data"))
        except StatusError as error:
            raise PeerError(f"{error}. Is it an OpenAI-compatible server? Name its model with --peer-model") from None
        names = [str(model["id"]) for model in listed if isinstance(model.get("id"), str)]
        if not names:
            raise PeerError(f"{self.name}/v1/models lists no model: name one with --peer-model")
        return names[0]

    def _find_route(self) -> None:
        """Ask for one token: completions, which take a prompt as it is, else chat, which wraps it in a template."""
        probe = Sample((), "The")
        try:
            self.generate(probe, 1)
        except StatusError as error:
            if error.status not in _ABSENT:
                raise
            self._chat = True
            self.generate(probe, 1)

    def _has_props(self) -> bool:
        try:
            return "build_info" in _dict(self._endpoint.get("/props"))
        except PeerError:
            return False


def timing_of(
    name: str,
    arrivals: list[float],
    text: str,
    said: dict[str, Any],
    ended: bool,
    prompt: Sample,
    max_tokens: int,
) -> Timing:
    """A timing out of what a stream held.

    :param said: `usage` and `timings`, where the peer sent them.
    :param ended: whether the peer said that the answer was at its end.
    :raises PeerError: it broke off, gave no token, or its counts cannot be true.
    """
    if not arrivals:
        raise PeerError(f"{name} answered without a single token. Does it serve this model, and does it stream?")
    if not ended:
        raise PeerError(f"{name} broke off after {len(arrivals)} pieces of its answer")
    usage, timings = _dict(said.get("usage")), _dict(said.get("timings"))
    completion = _count(usage.get("completion_tokens"), timings.get("predicted_n"), default=len(arrivals))
    cached = _cached(usage, timings)
    prompt_n = None if timings.get("prompt_n") is None else _count(timings["prompt_n"], default=0) + (cached or 0)
    given = _count(usage.get("prompt_tokens"), prompt_n, default=len(prompt.token_ids))
    if not 1 <= completion <= max_tokens + 8 or (cached or 0) > given:
        raise PeerError(f"{name} says it made {completion} tokens of {max_tokens} asked for: that cannot be")
    return Timing(
        prompt_tokens=given,
        completion_tokens=completion,
        arrivals_sec=tuple(arrivals),
        text=text,
        prefill_sec=_milliseconds(name, timings.get("prompt_ms")),
        cached_tokens=cached,
    )


def _cached(usage: dict[str, Any], timings: dict[str, Any]) -> int | None:
    details = _dict(usage.get("prompt_tokens_details"))
    found = [value for value in (timings.get("cache_n"), details.get("cached_tokens")) if value is not None]
    return _count(*found, default=0) if found else None


def _count(*values: Any, default: int) -> int:
    """The first that is given.

    :raises PeerError: it is no count.
    """
    for value in values:
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise PeerError(f"the peer says {value!r} where a number of tokens belongs")
            return value
    return default


def _milliseconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise PeerError(f"{name} says that it took {value!r} ms: that cannot be")
    return float(value) / 1000


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
