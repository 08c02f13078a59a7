"""Models of other families than the default one: built, run by the box's engine, and compared with transformers.

EDGE_ARCHITECTURES=all takes every architecture of tiny_models.py and every form of the weights (scripts/qualify
architectures); EDGE_ARCHITECTURES_REPORT=FILE writes down what was seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.engine.base import EngineOptions, Message, Sampling
from edge.engine.genai import GenaiEngine
from edge.errors import BuildError
from edge.files import write_atomic
from optimize import architectures, child, dialogue, evaluate
from tests.optimize import tiny_models

EVERY = os.environ.get("EDGE_ARCHITECTURES") == "all"
NAMES = sorted({**tiny_models.TINY, **(tiny_models.MORE if EVERY else {})})
CONTEXT = 256
PLAIN = {"context_tokens": CONTEXT, "shared_embeddings": False}
RECIPES: dict[str, dict[str, Any]] = {
    "fp32": {**PLAIN, "precision": "fp32", "logits_rows": 8},
    "int8": {**PLAIN, "precision": "int8", "logits_rows": 8},
}
if EVERY:
    RECIPES |= {
        "int4": {**PLAIN, "precision": "int4", "algorithm": "k_quant", "block_size": 16, "logits_rows": 1},
        "int8-kv": {**PLAIN, "precision": "int8", "logits_rows": 8, "kv_cache": "int8"},
        "int8-tied": {**PLAIN, "precision": "int8", "logits_rows": 8, "shared_embeddings": True},
    }
LEAST_AGREEMENT = {"fp32": 1.0, "int8": 0.8, "int4": 0.4, "int8-kv": 0.7, "int8-tied": 0.8}
"""Share of positions with the same most likely token. Random weights have no clear favourites."""
TURNS = [
    Message("system", "Answer briefly."),
    Message("user", "[1] Pumps > P-10\nIt weighs  3.5 kg – «net».\n\nQuestion: How much, in kg?"),
]


@dataclass(frozen=True)
class Reference:
    """What transformers says of a tiny model."""

    tokens: list[int]  # of the gate's text, longer than any sliding window
    logits: Any  # float32 (time, vocabulary)
    greedy: list[int]  # what follows the first 100 tokens
    prompt: list[int]  # `TURNS` by its chat template


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models in all forms, made by one process."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "recipes.json").write_text(json.dumps(RECIPES))
    environment = child.environment(folder / "scratch") | {"EDGE_CACHE": str(folder / "cache")}
    done = subprocess.run(
        child.command("tests.optimize.build_tiny", [str(folder), str(folder / "recipes.json"), *NAMES]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, dict[str, Any]]]:
    """Figures of every model and form, written to a file where one is named."""
    found: dict[str, dict[str, Any]] = {}
    yield found
    if path := os.environ.get("EDGE_ARCHITECTURES_REPORT"):
        write_atomic(Path(path), json.dumps(found, indent=2, sort_keys=True) + "\n")


def reference(folder: Path) -> Reference:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = evaluate._tokenize(folder, evaluate.gate_text())[:150]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
        given = model.generate(torch.tensor([tokens[:100]]), max_new_tokens=24, do_sample=False, eos_token_id=None)
    turns = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return Reference(tokens, logits, given[0, 100:].tolist(), tokenizer.encode(text, add_special_tokens=False))


def engine(folder: Path, **options: Any) -> GenaiEngine:
    template = (folder / dialogue.TEMPLATE).read_text(encoding="utf-8")
    return GenaiEngine(folder, template, (), EngineOptions(context_tokens=CONTEXT, threads=1, **options))


def ends(folder: Path) -> set[int]:
    """The tokens that the library stops at."""
    found = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["eos_token_id"]
    return set(found) if isinstance(found, list) else {found}


def said(of: GenaiEngine, token_ids: list[int], count: int = 24) -> list[int]:
    return [token.id for token in of.start(token_ids, Sampling(max_tokens=count))]


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_the_box_says_what_transformers_says(built: Path, name: str, report: dict[str, dict[str, Any]]) -> None:
    wanted = reference(built / name / "parent")
    report[name] = {}
    for recipe in RECIPES:
        folder = built / name / recipe
        if not folder.is_dir():  # one table for embedding and head, of a model with two
            continue
        every = evaluate.teacher_forced(folder)(np.array(wanted.tokens))
        agreement = float((every.argmax(axis=1) == wanted.logits.argmax(axis=1)).mean())
        far = float(np.abs(every - wanted.logits).max())
        report[name][recipe] = {"top1_agreement": agreement, "largest_difference": far}
        assert agreement >= LEAST_AGREEMENT[recipe], (recipe, far)
        if recipe == "fp32":
            assert far < 5e-4

    exact = engine(built / name / "fp32", prefix_caches=0)
    assert exact.encode(exact.render(TURNS)) == wanted.prompt
    np.testing.assert_allclose(exact.probe(wanted.tokens), wanted.logits[-2:], atol=5e-3)
    stops = ends(built / name / "fp32")
    until = next((place for place, token in enumerate(wanted.greedy) if token in stops), None)
    assert said(exact, wanted.tokens[:100]) == wanted.greedy[:until]


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_drafts_and_kept_prompts_change_nothing(built: Path, name: str) -> None:
    """A prompt taken up where another left it, past a sliding window, and guesses from the prompt."""
    tokens = evaluate._tokenize(built / name / "parent", evaluate.gate_text())
    first, second = tokens[:180], tokens[:120] + tokens[300:340]
    plain = engine(built / name / "int8", prefix_caches=0)
    wanted = [said(plain, first), said(plain, second)]
    fast = engine(built / name / "int8", prefix_caches=1, draft_tokens=4, draft_ngram=2)
    assert [said(fast, first), said(fast, second)] == wanted
    session = fast.start(second, Sampling(max_tokens=1))
    list(session)
    assert session.stats.cached_tokens > 100


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_ends_where_the_family_ends_it(built: Path, name: str) -> None:
    family = tiny_models.TOKENS[{**tiny_models.TINY, **tiny_models.MORE}[name].tokens]
    assert family.special.index(family.end) in ends(built / name / "int8")
    assert set(family.special) <= set(dialogue.special_tokens(built / name / "int8"))


# What can be built


def test_every_architecture_of_the_builder_is_known() -> None:
    """Read, not imported: it imports torch."""
    spec = find_spec("onnxruntime_genai")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("models") / "builder.py"
    named = set(re.findall(r'architectures\[0\] == "(\w+)"', source.read_text(encoding="utf-8")))
    assert named == {*architectures.KNOWN, *architectures.NOT_HERE}
    assert not set(architectures.KNOWN) & set(architectures.NOT_HERE)


def test_known_architectures_have_a_tiny_model() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as classes

    tiny = {**tiny_models.TINY, **tiny_models.MORE}.values()
    assert {str(classes[one.model_type]) for one in tiny} == set(architectures.KNOWN)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "does not know it"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "ends in ForCausalLM"),
        ({"architectures": ["Lfm2ForCausalLM"]}, "cannot be rewound"),
        ({}, "architecture none"),
        (
            {
                "architectures": ["Gemma3ForCausalLM"],
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {}},
            },
            "rope_scaling",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(BuildError, match=why) as caught:
        architectures.check(config, "the base")
    assert "Gemma 3 without" in str(caught.value) or "LlamaForCausalLM" in str(caught.value), "and what can be"
