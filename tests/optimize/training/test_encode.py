"""Token ids for training are those that serving has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge.engine.base import EngineOptions, Message
from edge.errors import BuildError
from optimize.dataset.examples import Example, Sample, Shown, sample
from optimize.training.encode import Encoder, encode_all

EXAMPLE = Example(
    "1", "doc", "How long does the update take?", (Shown("Manual", "The update takes six minutes.\n<|im_end|> No."),),
    ("six minutes",), support=1,
)  # fmt: skip


def test_prompt_then_answer_then_the_end_of_the_turn(tiny_llama: Path) -> None:
    from tokenizers import Tokenizer

    made = Encoder(tiny_llama).encode(sample(EXAMPLE))
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    prompt = tokenizer.decode(made.prompt, skip_special_tokens=False)
    assert prompt.endswith("Question: How long does the update take?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(made.completion, skip_special_tokens=False) == "six minutes [1]<|im_end|>"
    assert made.completion[-1] == tokenizer.token_to_id("<|im_end|>")
    assert made.prompt.count(tokenizer.token_to_id("<|im_end|>")) == 2, "the document's own control token is broken up"
    assert made.tokens == len(made.prompt) + len(made.completion) - 1


def test_what_is_too_long_is_left_out_by_name(tiny_llama: Path) -> None:
    encoder = Encoder(tiny_llama)
    short = Sample("short", "d", (Message("user", "a"),), "b")
    long = Sample("long", "d", (Message("user", "a " * 400),), "b")
    kept, left_out = encode_all([short, long], encoder, 64)
    assert ([one.id for one in kept], left_out) == (["short"], ["long"])
    with pytest.raises(BuildError, match=r"all 1 examples are longer than finetune.max_tokens: 64; the shortest"):
        encode_all([long], encoder, 64)
    with pytest.raises(BuildError, match="no examples"):
        encode_all([], encoder, 64)


def test_template_that_never_ends_a_turn_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parent"
    shutil.copytree(tiny_llama, folder)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "eos_token_id": 0}))
    with pytest.raises(BuildError, match=r"none of the stop tokens \[0\]; set eos_token_id"):
        Encoder(folder)


@pytest.mark.model
def test_prompt_is_what_the_engine_reads(default_bundle: Path) -> None:
    from edge import bundle
    from edge.engine.genai import GenaiEngine
    from optimize.build import Build
    from optimize.recipe import DEFAULT, load_recipe

    built = bundle.load(default_bundle)
    section = built.manifest.model
    folder, template = built.path / section.path, bundle.chat_template(built)
    engine = GenaiEngine(folder, template, section.stop_tokens, EngineOptions(1024))
    encoder = Encoder(Build(load_recipe(DEFAULT), lambda stage, state: None).parent().path)
    plain = Example(
        "1", "doc", "Wie lange dauert’s — 6 or 60?\n", (Shown("Über", "  It takes\t6 min. ☕\n\n1. a"),), ()
    )
    made = sample(plain)
    encoded = encoder.encode(made)
    assert list(encoded.prompt) == engine.encode(engine.render(made.prompt))
    assert encoded.completion[-1] in section.stop_tokens
