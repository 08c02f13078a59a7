"""What the tools of `edge.mcp` return, and where they get it: a box in this process, or a daemon that runs already."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from edge.errors import EngineError, UsageError
from edge.sizes import parse_size

if TYPE_CHECKING:
    from edge.box import Box

_TIMEOUT_SEC = 330.0  # longer than a daemon takes to give up: server.request_sec
_REPLY_BYTES = parse_size("16MiB")


@dataclass(frozen=True)
class Found:
    """A passage of a document."""

    document: str
    title: str
    page: int | None  # 1-based; null where the format has no pages
    start: int  # characters of the extracted text
    end: int
    score: float  # about 0..1
    text: str


@dataclass(frozen=True)
class Search:
    """What was found, best first."""

    hits: list[Found]


@dataclass(frozen=True)
class Cited:
    """Evidence for one sentence of the answer."""

    marker: int  # in the answer: [1]
    document: str
    title: str
    page: int | None
    start: int
    end: int
    score: float  # support of the sentence, 0..1
    text: str  # as the document has it
    sentence: str  # as the answer has it


@dataclass(frozen=True)
class Said:
    """An answer from the documents, with a marker after each sentence that they support."""

    answer: str
    abstained: bool  # the documents do not say
    citations: list[Cited]


class Source(Protocol):
    """Where the tools get what they return."""

    def search(self, query: str, top_k: int, where: Sequence[str]) -> list[Found]: ...

    def ask(self, question: str, where: Sequence[str]) -> Said: ...


class BoxSource:
    """A box in this process."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def search(self, query: str, top_k: int, where: Sequence[str]) -> list[Found]:
        from edge.store.filters import Filter

        wanted = Filter.parse(where)
        with self._box.lock:
            self._box.admit()
        hits = self._box.retrieve(query, wanted, top_k)
        return [
            Found(h.document, h.title, h.chunk.page, h.chunk.start, h.chunk.end, round(h.score, 4), h.chunk.text)
            for h in hits
        ]

    def ask(self, question: str, where: Sequence[str]) -> Said:
        from edge.plain import answer_json, marked
        from edge.store.filters import Filter

        answer = self._box.ask(question, where=Filter.parse(where))
        return Said(marked(answer), answer.abstained, [_cited(one) for one in answer_json(answer)["citations"]])


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


class DaemonSource:
    """A daemon over HTTP.

    :param url: of the daemon, without a path: http://127.0.0.1:8642
    :param key: its API key, where it needs one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url!r}: write the daemon's address, such as http://127.0.0.1:8642")
        self._url, self._key = url.rstrip("/"), key
        # questions go to this address and no other: through no proxy of the environment, and after no redirect
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)

    def search(self, query: str, top_k: int, where: Sequence[str]) -> list[Found]:
        found = self._post("/v1/search", {"query": query, "top_k": top_k, "filter": list(where)})
        names = ("document", "title", "page", "start", "end", "score", "text")
        return [Found(**{name: hit[name] for name in names}) for hit in found["data"]]

    def ask(self, question: str, where: Sequence[str]) -> Said:
        asked = {"model": "edge", "messages": [{"role": "user", "content": question}], "rag": {"filter": list(where)}}
        reply = self._post("/v1/chat/completions", asked)
        message = reply["choices"][0]["message"]
        citations = [_cited(one | {"title": one["url_citation"]["title"]}) for one in message["annotations"]]
        return Said(message["content"], bool(reply["edge"]["abstained"]), citations)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """:raises EngineError: the daemon is not there, or refuses; says what it says."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SEC) as reply:
                return json.loads(reply.read(_REPLY_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise EngineError(f"the daemon at {self._url} says: {_message(error.read(_REPLY_BYTES))}") from None
        except (OSError, ValueError) as error:
            raise EngineError(f"the daemon at {self._url} does not answer: {error}; does `edge serve` run?") from error


def _cited(citation: dict[str, Any]) -> Cited:
    names = ("marker", "document", "title", "page", "start", "end", "score", "text", "sentence")
    return Cited(**{name: citation[name] for name in names})


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:300].decode(errors="replace")
