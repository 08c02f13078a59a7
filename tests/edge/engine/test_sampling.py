"""Guided decoding, log-probabilities and stop strings, with the real default model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import bundle
from edge.engine.base import EngineOptions, Guidance, Message, Sampling, check_sampling
from edge.engine.channel import pack_token, unpack_token
from edge.engine.genai import GenaiEngine
from edge.errors import UsageError
from edge.types import Logprobs, Token

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "colour": {"enum": ["red", "green", "blue"]},
    },
    "required": ["name", "age", "colour"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(stop=("a", "")), "stop string is empty"),
        (Sampling(logprobs=21), "logprobs is 21; it must be from 0 to 20"),
        (Sampling(logprobs=-1), "from 0 to 20"),
        (Sampling(guidance=Guidance("xml", "x")), "'xml' is unknown: use one of json_schema, regex"),  # type: ignore[arg-type]
        (Sampling(guidance=Guidance("regex", " ")), "the regex is empty"),
        (Sampling(guidance=Guidance("json_schema", "{")), "json_schema is not JSON"),
        (Sampling(guidance=Guidance("json_schema", '{"x-guidance": {"lenient": true}}')), "x-guidance"),
    ],
)
def test_what_cannot_be_is_refused(sampling: Sampling, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_sampling(sampling)
    check_sampling(Sampling())


def test_tokens_go_over_the_wire_unchanged() -> None:
    for token in (Token(1, "å"), Token(2, "x", Logprobs(-0.5, ((2, "x", -0.5), (7, "y", -1.25)))), Token(3, "")):
        assert unpack_token(json.loads(json.dumps(pack_token(token)))) == token


@pytest.fixture(scope="module")
def engine(default_bundle: Path) -> Iterator[GenaiEngine]:
    loaded = bundle.load(default_bundle)
    model = loaded.manifest.model
    options = EngineOptions(context_tokens=512, draft_tokens=6)
    engine = GenaiEngine(loaded.path / model.path, bundle.chat_template(loaded), model.stop_tokens, options)
    yield engine
    engine.close()


def prompt(engine: GenaiEngine, text: str = "Describe a person.") -> list[int]:
    return engine.encode(engine.render([Message("user", text)]))


def answer(engine: GenaiEngine, **sampling: Any) -> tuple[str, str]:
    session = engine.start(prompt(engine), Sampling(**sampling))
    return "".join(token.text for token in session), session.stats.finish_reason


@pytest.mark.model
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_guided_answer_is_what_the_schema_says(engine: GenaiEngine, seed: int | None) -> None:
    """Greedy, and at temperature 1, where the model alone writes prose."""
    sampled = {} if seed is None else {"temperature": 1.0, "seed": seed}
    # whitespace between the tokens of JSON is the model's to choose: without it the longest answer has 60 tokens
    text, reason = answer(engine, max_tokens=250, guidance=Guidance("json_schema", json.dumps(PERSON)), **sampled)
    assert reason == "stop"
    person = json.loads(text)
    assert person.keys() == {"name", "age", "colour"}
    assert len(person["name"]) <= 12 and 1 <= person["age"] <= 99 and person["colour"] in {"red", "green", "blue"}


@pytest.mark.model
def test_a_regular_expression_and_a_grammar(engine: GenaiEngine) -> None:
    text, reason = answer(engine, guidance=Guidance("regex", "[0-9]{3}/[a-z]{2}"), temperature=1.0, seed=5)
    assert re.fullmatch("[0-9]{3}/[a-z]{2}", text) and reason == "stop"
    assert answer(engine, guidance=Guidance("lark_grammar", 'start: "yes" | "no"'))[0] in {"yes", "no"}


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", '{"type": "frobnicate"}', "the json_schema cannot be enforced: Invalid type: frobnicate"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"not": {"type": "string"}}', '"not"'),
        ("json_schema", '{"type": "string", "format": "shoe-size"}', "Unknown format: shoe-size"),
        ("json_schema", "false", "Unsatisfiable schema"),
        ("regex", "(a", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("lark_grammar", "start: missing", "unknown name"),
    ],
)
def test_what_cannot_be_enforced_is_refused_and_the_engine_goes_on(
    engine: GenaiEngine, kind: Any, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        answer(engine, guidance=Guidance(kind, text))
    assert answer(engine, max_tokens=2)[1] == "length"


@pytest.mark.model
def test_requests_of_other_kinds_leave_the_kept_prefix_sound(engine: GenaiEngine) -> None:
    before = answer(engine, max_tokens=24)
    answer(engine, max_tokens=8, guidance=Guidance("regex", "[0-9]{8}"))
    answer(engine, max_tokens=8, logprobs=2)
    assert answer(engine, max_tokens=24) == before


@pytest.mark.model
def test_logprobs_are_the_softmax_of_the_model_s_own_logits(engine: GenaiEngine) -> None:
    ids = prompt(engine)
    plain = [token.id for token in engine.start(ids, Sampling(max_tokens=12))]
    tokens = list(engine.start(ids, Sampling(max_tokens=12, logprobs=3)))
    assert [token.id for token in tokens] == plain
    logits = engine.probe([*ids, tokens[0].id])[1].astype(np.float64)  # for the second token, by another way
    logs = logits - np.logaddexp.reduce(logits)
    second = tokens[1].logprobs
    assert second is not None
    assert second.logprob == pytest.approx(logs[tokens[1].id], abs=2e-3)
    assert [index for index, _, _ in second.top] == np.argsort(-logs)[:3].tolist()
    np.testing.assert_allclose([logprob for _, _, logprob in second.top], np.sort(logs)[::-1][:3], atol=2e-3)
    for token in tokens:
        assert token.logprobs is not None and len(token.logprobs.top) == 3
        assert token.logprobs.top[0][::2] == (token.id, token.logprobs.logprob)  # greedy takes the first
        assert all(logprob <= 0 for _, _, logprob in token.logprobs.top)


@pytest.mark.model
def test_logprobs_know_nothing_of_temperature_and_guidance(engine: GenaiEngine) -> None:
    ids = prompt(engine)
    first = next(iter(engine.start(ids, Sampling(max_tokens=1, logprobs=5)))).logprobs
    guided = Sampling(max_tokens=1, logprobs=5, temperature=1.5, seed=1, guidance=Guidance("regex", "[0-9]{3}"))
    token = next(iter(engine.start(ids, guided)))
    assert first is not None and token.logprobs is not None
    assert token.text.isdigit() and token.logprobs.top == first.top and token.logprobs.logprob < first.logprob
    alone = next(iter(engine.start(ids, Sampling(max_tokens=1, logprobs=0)))).logprobs
    assert alone == Logprobs(first.logprob, ())


@pytest.mark.model
def test_an_answer_ends_before_a_stop_string(engine: GenaiEngine) -> None:
    whole, _ = answer(engine, max_tokens=24)
    for start, end in ((5, 8), (9, 20), (17, 18)):  # within a token, across several, a character
        stop = whole[start:end]
        text, reason = answer(engine, max_tokens=24, stop=(stop, "never there"))
        assert (text, reason) == (whole[: whole.index(stop)], "stop")
    session = engine.start(prompt(engine), Sampling(max_tokens=24, stop=(whole[-3:] + "\0",)))
    assert "".join(token.text for token in session) == whole  # what was held back comes at the end
    assert session.stats.finish_reason == "length"
