"""The engine with the real default model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import bundle
from edge.engine.base import Message, Sampling
from edge.engine.genai import GenaiEngine
from edge.errors import EngineError, PromptTooLong

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def engine(default_bundle: Path) -> Iterator[GenaiEngine]:
    loaded = bundle.load(default_bundle)
    engine = GenaiEngine(loaded.path, loaded.manifest.model)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prompt(engine: GenaiEngine) -> list[int]:
    return engine.encode(
        engine.render([Message("system", "Be brief."), Message("user", "What is the capital of Norway?")])
    )


def test_the_template_is_the_bundle_s(engine: GenaiEngine) -> None:
    text = engine.render([Message("system", "Be brief. æøå"), Message("user", "Hei")])
    assert (
        text == "<|im_start|>system\nBe brief. æøå<|im_end|>\n<|im_start|>user\nHei<|im_end|>\n<|im_start|>assistant\n"
    )


def test_greedy_generation_repeats_itself_and_stops_on_the_model_s_end(engine: GenaiEngine, prompt: list[int]) -> None:
    session = engine.start(prompt, Sampling(max_tokens=64))
    text = "".join(token.text for token in session)
    assert "Oslo" in text and "<|im_end|>" not in text
    stats = session.stats
    assert stats.finish_reason == "stop"
    assert stats.prompt_tokens == len(prompt) and 0 < stats.completion_tokens < 64
    assert stats.ttft_sec > 0 and stats.decode_tok_per_sec > 1
    assert "".join(token.text for token in engine.start(prompt, Sampling(max_tokens=64))) == text


def test_the_limit_ends_the_stream(engine: GenaiEngine, prompt: list[int]) -> None:
    session = engine.start(prompt, Sampling(max_tokens=2))
    assert len(list(session)) == 2
    assert session.stats.finish_reason == "length"


def test_cancel_ends_the_stream_at_the_next_token(engine: GenaiEngine, prompt: list[int]) -> None:
    session = engine.start(prompt, Sampling(max_tokens=64))
    seen = 0
    for _ in session:
        seen += 1
        session.cancel()
    assert seen == 1
    assert session.stats.finish_reason == "cancelled"


def test_sampling_repeats_with_its_seed(engine: GenaiEngine, prompt: list[int]) -> None:
    def text(seed: int) -> str:
        return "".join(t.text for t in engine.start(prompt, Sampling(max_tokens=24, temperature=1.5, seed=seed)))

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(1, 6)}) > 1


def test_characters_of_several_tokens_come_out_whole(engine: GenaiEngine) -> None:
    ids = engine.encode(engine.render([Message("user", "Repeat exactly: blåbærsyltetøy 🫐🫐")]))
    assert "\ufffd" not in "".join(t.text for t in engine.start(ids, Sampling(max_tokens=40)))


def test_a_prompt_of_one_token_and_of_almost_the_context(engine: GenaiEngine, prompt: list[int]) -> None:
    assert len(list(engine.start(prompt[:1], Sampling(max_tokens=3)))) <= 3
    full = (prompt * (engine.context_tokens // len(prompt) + 1))[: engine.context_tokens - 1]
    session = engine.start(full, Sampling(max_tokens=10))
    assert len(list(session)) <= 1


def test_a_prompt_that_fills_the_context_is_refused(engine: GenaiEngine) -> None:
    with pytest.raises(PromptTooLong, match="shorten it by 2 tokens"):
        engine.start([5] * (engine.context_tokens + 1), Sampling())


def test_a_missing_model_says_what_to_do(tmp_path: Path, default_bundle: Path) -> None:
    section = bundle.load(default_bundle).manifest.model
    with pytest.raises(EngineError, match="edge bundle verify"):
        GenaiEngine(tmp_path, section)
