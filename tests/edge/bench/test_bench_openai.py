"""A peer behind an address: what it says is taken where it can be true, and everything else is an error, in time."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from edge.bench.openai import OpenAiPeer
from edge.bench.text import Sample
from edge.errors import PeerError
from tests.edge.bench.made import Handler, chatting, completing, models, peer

PROMPT = Sample(tuple(range(64)), "sixty four tokens")
TIMINGS = {"cache_n": 4, "prompt_n": 60, "prompt_ms": 30.0, "predicted_n": 16, "predicted_ms": 100.0}


def ask(url: str, tokens: int = 16, timeout_sec: float = 5.0) -> Any:
    return OpenAiPeer(url, timeout_sec).generate(PROMPT, tokens)


def test_completions_are_timed_from_outside() -> None:
    with peer(completions=completing(0.01)) as (url, asked):
        timing = ask(url)
    assert timing.prompt_tokens == 64 and timing.completion_tokens == 16
    assert len(timing.arrivals_sec) == 16 and timing.text.startswith(" w0 w1")
    assert 0.01 <= timing.ttft_sec < 1
    assert 20 < timing.decode_tok_per_sec < 101
    assert timing.prefill_sec is None and timing.cached_tokens is None
    assert asked[-1] == {
        "path": "/v1/completions", "model": "tiny", "prompt": "sixty four tokens", "max_tokens": 16,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_a_server_without_completions_is_asked_by_chat() -> None:
    with peer(chat=chatting) as (url, asked):
        found = OpenAiPeer(url, 5.0)
        timing = found.generate(PROMPT, 12)
    assert found.route == "/v1/chat/completions"
    assert asked[-1]["messages"] == [{"role": "user", "content": "sixty four tokens"}]
    assert timing.completion_tokens == 12  # pieces are counted where there is no `usage`
    assert timing.prompt_tokens == 64


def test_llama_servers_own_account_is_taken() -> None:
    with peer(completions=completing(timings=TIMINGS)) as (url, _):
        timing = ask(url)
    assert timing.prefill_sec == 0.03 and timing.cached_tokens == 4
    assert timing.prefill_tok_per_sec == pytest.approx(60 / 0.03)


def test_llama_server_is_told_not_to_use_its_cache() -> None:
    with peer(completions=completing(), props=lambda h, _: h.json({"build_info": "b1"})) as (url, asked):
        found = OpenAiPeer(url, 5.0)
        found.generate(PROMPT, 2)
        found.generate(PROMPT, 2, reuse=True)
    assert [request["cache_prompt"] for request in asked[-2:]] == [False, True]


def test_an_address_may_end_in_v1() -> None:
    with peer(completions=completing()) as (url, _):
        assert ask(f"{url}/v1/").completion_tokens == 16


@pytest.mark.parametrize("url", ["llamacpp", "ftp://host", "http://", "http://h:notaport", "http://h:99999", ""])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(PeerError, match="no address of a peer"):
        OpenAiPeer(url, 1.0)


def test_a_peer_that_is_down() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(PeerError, match=f"no peer answers at {url}.*Start it"):
        OpenAiPeer(url, 1.0)


def silent(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    time.sleep(3)


def dripping(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    for _ in range(400):
        handler.wfile.write(b"d")
        time.sleep(0.02)


def html(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin("text/html")
    handler.wfile.write(b"<html><body>Welcome to my router</body></html>\n\n")


def events(*data: Any) -> Any:
    def send(handler: Handler, _: dict[str, Any]) -> None:
        handler.begin()
        for one in data:
            handler.event(one)

    return send


def dying(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    handler.event({"choices": [{"text": " half", "finish_reason": None}]})
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def chunk_broken(handler: Handler, _: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"zz\r\nnonsense")


def huge(handler: Handler, _: dict[str, Any]) -> None:
    handler.begin()
    for _ in range(100):
        handler.wfile.write(b"data: " + b"x" * 100_000)


END = {"choices": [{"text": " a", "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (html, "without a single token"),
        (dying, "broke off after 1 piece"),
        (chunk_broken, "broke the connection"),
        (huge, "an event of more than"),
        (events("{not json"), "no JSON"),
        (events("[1, 2]"), "no object"),
        (events({"error": {"message": "model exploded"}}), "model exploded"),
        (events({"choices": []}, "[DONE]"), "without a single token"),
        (events({"choices": "text"}, "[DONE]"), "without a single token"),
        (events({**END, "usage": {"completion_tokens": 5000}}), "that cannot be"),
        (events({**END, "usage": {"completion_tokens": -1}}), "-1"),
        (events({**END, "usage": {"completion_tokens": "many"}}), "'many'"),
        (events({**END, "timings": {"prompt_ms": 0}}), "0 ms"),
        (events({**END, "timings": {"prompt_ms": "soon"}}), "soon"),
        (events({**END, "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}}), "cannot be"),
        (lambda h, _: h.send_error(500, "out of memory"), "HTTP status 500"),
        (lambda h, _: h.send_error(404), "HTTP status 404"),
    ],
)
def test_nonsense_is_an_error(behaviour: Any, message: str) -> None:
    with peer(completions=behaviour, chat=behaviour) as (url, _), pytest.raises(PeerError, match=message):
        ask(url, timeout_sec=20)


@pytest.mark.parametrize(
    ("behaviour", "message"), [(silent, "was silent for 0.5 s"), (dripping, "longer than its time limit")]
)
def test_a_slow_peer_is_given_up_in_time(behaviour: Any, message: str) -> None:
    started = time.monotonic()
    with peer(completions=behaviour) as (url, _), pytest.raises(PeerError, match=message):
        ask(url, timeout_sec=0.5)
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda h, _: h.json({"data": []}), "lists no model"),
        (lambda h, _: h.json(["nothing"]), "lists no model"),
        (lambda h, _: h.send_error(401), "HTTP status 401.*--peer-model"),
        (html, "no JSON"),
    ],
)
def test_a_peer_that_lists_no_models(answer: Any, message: str) -> None:
    with peer(models=answer, completions=completing()) as (url, _), pytest.raises(PeerError, match=message):
        OpenAiPeer(url, 2.0)


def test_a_named_model_is_not_looked_up() -> None:
    with peer(models=html, completions=completing()) as (url, asked):
        OpenAiPeer(url, 2.0, "mine")
    assert asked[-1]["model"] == "mine"


def test_a_stream_that_ends_without_usage_is_fine() -> None:
    with peer(models=models, completions=events(END, "[DONE]")) as (url, _):
        timing = ask(url)
    assert timing.completion_tokens == 1 and timing.decode_tok_per_sec is None
