"""The clients that people use, from their own packages, against a real daemon; OpenAI's is in test_daemon_openai."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest

pytestmark = [pytest.mark.model, pytest.mark.process]

QUESTION = "How long does a firmware update take?"
ANSWER = "six minutes"
HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama(base: str) -> Iterator[ollama.Client]:
    with ollama.Client(base) as made:
        yield made


# -- ollama -------------------------------------------------------------------------------------------------------


def test_ollama_finds_the_model(llama: ollama.Client, client: openai.OpenAI) -> None:
    models = llama.list().models
    assert [model.model for model in models] == [model.id for model in client.models.list()]
    assert models[0].size is not None
    assert models[0].size > 10**8
    assert len(models[0].digest or "") == 64
    shown = llama.show(models[0].model or "")
    assert shown.capabilities == ["completion", "tools"]
    assert (shown.modelinfo or {})["smollm2.context_length"] >= 2048
    llama.chat(f"{models[0].model}:latest", HELLO, options={"num_predict": 1})
    loaded = llama.ps().models
    assert [model.name for model in loaded] == [models[0].model]
    assert (loaded[0].context_length or 0) >= 512


def test_ollama_chats_the_same_in_a_stream(llama: ollama.Client, client: openai.OpenAI) -> None:
    options = {"num_predict": 12, "temperature": 0, "num_ctx": 512}
    whole = llama.chat("edge", HELLO, options=options)
    lines = list(llama.chat("edge", HELLO, options=options, stream=True))
    assert "".join(line.message.content or "" for line in lines) == whole.message.content
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    assert (last.done_reason, last.eval_count) == (whole.done_reason, whole.eval_count)
    assert (last.total_duration or 0) >= (last.prompt_eval_duration or 0) + (last.eval_duration or 0) > 0
    other = client.chat.completions.create(model="edge", messages=HELLO, max_tokens=12)
    assert other.choices[0].message.content == whole.message.content


def test_ollama_generates(llama: ollama.Client) -> None:
    raw = llama.generate("edge", "The capital of France is", raw=True, options={"num_predict": 3})
    assert "Paris" in (raw.response or "")
    person = llama.generate("edge", "Make up a person as JSON.", format=PERSON, options={"num_predict": 80})
    assert set(json.loads(person.response or "")) == {"name", "age"}
    assert llama.generate("edge").done_reason == "load"
    assert llama.generate("edge", "Hi", system="You are a pirate.", options={"num_predict": 2}).response


def test_ollama_answers_from_the_documents(llama: ollama.Client, base: str) -> None:
    asked = {"model": "edge+rag", "messages": [{"role": "user", "content": QUESTION}], "stream": False}
    reply = httpx.post(f"{base}/api/chat", json=asked, timeout=120).json()
    assert ANSWER in reply["message"]["content"]
    assert reply["citations"][0]["name"] == "user-manual.md"
    lines = list(llama.generate("edge+rag", QUESTION, stream=True))
    assert "".join(line.response or "" for line in lines) == reply["message"]["content"]


def test_ollama_calls_tools(llama: ollama.Client) -> None:
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
          city: its name
        """
        return city

    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    message = llama.chat("edge", asked, tools=[weather], options={"num_predict": 80}).message
    if message.tool_calls:  # it is free to answer instead
        assert set(message.tool_calls[0].function.arguments) == {"city"}
    else:
        assert message.content


def test_ollama_embeds(llama: ollama.Client, client: openai.OpenAI) -> None:
    found = llama.embed("edge", ["a lighthouse", "a dog"]).embeddings
    other = client.embeddings.create(model="edge", input=["a lighthouse", "a dog"], encoding_format="float")
    np.testing.assert_allclose(np.array(found), np.array([row.embedding for row in other.data]), atol=1e-6)
    np.testing.assert_allclose(llama.embeddings("edge", "a dog").embedding, found[1], atol=1e-5)


def test_ollama_cuts_a_text_that_is_too_long_unless_told_not_to(llama: ollama.Client) -> None:
    cut = llama.embed("edge", "word " * 400)
    assert cut.prompt_eval_count == 256
    np.testing.assert_allclose(cut.embeddings[0], llama.embed("edge", "word " * 300 + "other").embeddings[0], atol=1e-6)
    assert llama.embeddings("edge", "word " * 400).embedding
    with pytest.raises(ollama.ResponseError, match="shorten it") as told:
        llama.embed("edge", "word " * 400, truncate=False)
    assert told.value.status_code == 400


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"images": ["aGVsbG8="]}, "images"), ({"options": {"num_ctx": 10**6}}, "num_ctx"), ({"think": True}, "think"),
        ({"options": {"repeat_penalty": 1.3}}, "repeat_penalty"), ({"suffix": "x"}, "suffix"),
        ({"options": {"top_k": 5, "temperature": 0.5}}, "top_k"), ({"template": "x"}, "template"),
        ({"format": {"type": "nonsense"}}, "nonsense"), ({"keep_alive": "soon"}, "keep_alive"),
    ],
)  # fmt: skip
def test_ollama_is_refused_what_would_be_left_out(llama: ollama.Client, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ollama.ResponseError, match=text) as told:
        llama.generate("edge", "Hi", **more)
    assert told.value.status_code == 400


def test_ollama_decides_how_long_the_model_stays(llama: ollama.Client) -> None:
    for for_good in (-1, 1e300):
        llama.generate("edge", keep_alive=for_good)
        (loaded,) = llama.ps().models
        assert loaded.expires_at is not None
        assert loaded.expires_at.year > 9000
    assert llama.generate("edge", keep_alive=0).done_reason == "unload"
    until = time.monotonic() + 20
    while llama.ps().models:
        assert time.monotonic() < until
        time.sleep(0.1)
    llama.generate("edge", "Hi", keep_alive="2m", options={"num_predict": 1})
    expires = llama.ps().models[0].expires_at
    assert expires is not None
    assert 60 < (expires - datetime.now(UTC)).total_seconds() <= 120


def test_ollama_s_other_errors(llama: ollama.Client) -> None:
    for call, status in ((lambda: llama.show("llama3"), 404), (lambda: llama.pull("llama3"), 501)):
        with pytest.raises(ollama.ResponseError) as told:
            call()
        assert told.value.status_code == status


# -- llm, langchain -----------------------------------------------------------------------------------------------


def test_llm(base: str, tmp_path: Path) -> None:
    """As its users set it up: a model in extra-openai-models.yaml."""
    known = [{"model_id": "box", "model_name": "edge+rag", "api_base": f"{base}/v1"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(known))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none", "LLM_LOAD_PLUGINS": ""}
    call = [sys.executable, "-m", "llm", "-m", "box", "--no-log", QUESTION]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout


def test_langchain(base: str) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    key: Any = "none"
    model = ChatOpenAI(model="edge", base_url=f"{base}/v1", api_key=key, max_tokens=8, temperature=0, max_retries=0)  # type: ignore[call-arg]
    whole = model.invoke("Say hello.")
    assert "".join(str(piece.content) for piece in model.stream("Say hello.")) == whole.content
    rag = ChatOpenAI(model="edge+rag", base_url=f"{base}/v1", api_key=key, max_retries=0)
    assert ANSWER in str(rag.invoke(QUESTION).content)
    embedder = OpenAIEmbeddings(model="edge", base_url=f"{base}/v1", api_key=key, check_embedding_ctx_length=False)
    vectors = np.array(embedder.embed_documents(["a lighthouse", "a dog"]))
    near, far = vectors @ np.array(embedder.embed_query("a beacon for ships"))
    assert near > far


# -- mcp ----------------------------------------------------------------------------------------------------------


async def use_mcp(server: Any) -> None:
    from mcp import Client

    async with Client(server) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        assert set(tools) == {"search", "ask"}
        assert tools["ask"].output_schema is not None
        asked = {"query": "how long an update of the firmware takes", "top_k": 2}
        found = (await mcp.call_tool("search", asked)).structured_content
        assert found is not None
        assert len(found["hits"]) == 2
        assert any(ANSWER in hit["text"] for hit in found["hits"])
        said = (await mcp.call_tool("ask", {"question": QUESTION})).structured_content
        assert said is not None
        assert ANSWER in said["answer"]
        assert said["citations"][0]["marker"] == 1
        wrong = await mcp.call_tool("search", {"query": "port", "filter": ["nonsense=1"]})
        assert wrong.is_error
        assert "nonsense" in str(wrong.content)


def edge_mcp(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge", "mcp", *arguments]


def test_mcp_over_stdio_with_a_box(sample_home: Path) -> None:
    from mcp import StdioServerParameters

    program, *arguments = edge_mcp()
    environment = {**os.environ, "EDGE_HOME": str(sample_home)}
    asyncio.run(use_mcp(StdioServerParameters(command=program, args=arguments, env=environment)))


def test_mcp_over_http_with_a_daemon(base: str) -> None:
    call = edge_mcp("--http", "127.0.0.1:0", "--url", base)
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            address = json.loads(running.stderr.readline())["address"]
            asyncio.run(use_mcp(address))
            strange = httpx.post(address, json={}, headers={"Origin": "http://evil.example"})
            assert strange.status_code == 403
            strange = httpx.post(address, json={}, headers={"Host": "evil.example"})
            assert strange.status_code >= 400
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(20)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--http", "0.0.0.0:0"], "loopback"),
        (["--http", "nonsense"], "HOST:PORT"),
        (["--url", "127.0.0.1:1"], "http://127.0.0.1"),
        (["--url", "http://127.0.0.1:1", "--index", "x"], "--url"),
    ],
)
def test_mcp_that_cannot_start_says_so(arguments: list[str], text: str) -> None:
    done = subprocess.run(
        edge_mcp(*arguments), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert text in done.stderr
