"""The engine with the real default model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import bundle
from edge.engine.base import EngineOptions, Message, Sampling
from edge.engine.genai import GenaiEngine
from edge.errors import EngineError, PromptTooLong

pytestmark = pytest.mark.model


def open_engine(folder: Path, **options: int) -> GenaiEngine:
    loaded = bundle.load(folder)
    model = loaded.manifest.model
    chosen = EngineOptions(**({"context_tokens": 512} | options))
    return GenaiEngine(loaded.path / model.path, bundle.chat_template(loaded), model.stop_tokens, chosen)


@pytest.fixture(scope="module")
def engine(default_bundle: Path) -> Iterator[GenaiEngine]:
    engine = open_engine(default_bundle)
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


def test_no_character_cuts_a_text_short(engine: GenaiEngine) -> None:
    text = "one\0two\ud800three"
    assert engine.encode(text) == engine.encode("one\ufffdtwo?three")
    assert "one\ufffdtwo?three" in engine.render([Message("user", text)])


def test_a_prompt_of_one_token_and_of_almost_the_context(engine: GenaiEngine, prompt: list[int]) -> None:
    assert len(list(engine.start(prompt[:1], Sampling(max_tokens=3)))) <= 3
    full = (prompt * (engine.context_tokens // len(prompt) + 1))[: engine.context_tokens - 1]
    session = engine.start(full, Sampling(max_tokens=10))
    assert len(list(session)) <= 1


def test_a_prompt_that_fills_the_context_is_refused(engine: GenaiEngine) -> None:
    with pytest.raises(PromptTooLong, match="shorten it by 2 tokens"):
        engine.start([5] * (engine.context_tokens + 1), Sampling())


def test_a_missing_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="edge bundle verify"):
        GenaiEngine(tmp_path, "", (), EngineOptions(context_tokens=64))


def text_of(engine: GenaiEngine, prompt: list[int], max_tokens: int = 24) -> tuple[list[int], int]:
    session = engine.start(prompt, Sampling(max_tokens=max_tokens))
    return [token.id for token in session], session.stats.cached_tokens


def test_a_kept_prefix_gives_the_same_tokens_as_none(default_bundle: Path, engine: GenaiEngine) -> None:
    without = open_engine(default_bundle, prefix_caches=0)
    story = "The gateway logs an event each time a valve opens. " * 8

    def prompt(question: str) -> list[int]:
        return engine.encode(engine.render([Message("system", "Be brief."), Message("user", story + question)]))

    asked = [prompt(question) for question in ("What does it log?", "When?", "What does it log?", "Who are you?")]
    asked.append(asked[-1][:1])  # a prompt of one token
    asked.append(asked[0][:150])
    kept = [text_of(engine, ids) for ids in asked]
    fresh = [text_of(without, ids) for ids in asked]
    without.close()
    assert [tokens for tokens, _ in kept] == [tokens for tokens, _ in fresh]
    assert all(cached == 0 for _, cached in fresh)
    assert kept[1][1] > 80 and kept[3][1] > 80  # the story
    assert kept[5][1] == 1  # all that the prompt of one token had


def test_how_the_prompt_is_cut_into_pieces_changes_nothing(default_bundle: Path, prompt: list[int]) -> None:
    long = prompt * 3
    answers = []
    for size in (len(long) - 1, 16, 64, 512):  # the first would leave a last piece of one token
        engine = open_engine(default_bundle, prefill_chunk_tokens=size, prefix_caches=0)
        answers.append(text_of(engine, long)[0])
        engine.close()
    assert answers[0] == answers[1] == answers[2] == answers[3]


def test_prefill_is_cancelled_between_two_pieces(default_bundle: Path, prompt: list[int]) -> None:
    engine = open_engine(default_bundle, prefill_chunk_tokens=16)
    session = engine.start(prompt * 6, Sampling())
    steps = session.steps()
    assert [next(steps), next(steps)] == [[], []]
    session.cancel()
    assert list(steps) == []
    assert (session.stats.finish_reason, session.stats.completion_tokens) == ("cancelled", 0)
    assert text_of(engine, prompt * 6)[1] == 32  # what was read is kept
    engine.close()


def test_a_reader_that_leaves_early_costs_no_prefix(engine: GenaiEngine, prompt: list[int]) -> None:
    stream = iter(engine.start(prompt, Sampling(max_tokens=8)))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert text_of(engine, prompt)[1] == len(prompt) - 2
