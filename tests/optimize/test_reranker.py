"""The reranker's build: the real passes on a random cross-encoder of a few kilobytes, and each step's own rules."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge import bundle
from edge.errors import BuildError, GateError
from optimize import encoder, environments, manifest, reranker, reranker_gate
from optimize.build import Build
from optimize.recipe import load_recipe
from optimize.reranker import RerankerRecipe
from optimize.reranker_gate import RerankerGate
from optimize.sources import FolderSource, GgufSource, Source

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

MAX_TOKENS = 64


@pytest.fixture(scope="module")
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers with one label, and a word-piece tokenizer trained on the shipped text."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross")
    tokenizer = BertWordPieceTokenizer()
    texts = reranker_gate.shipped_pairs(lambda question: True).questions
    tokenizer.train_from_iterator(texts, vocab_size=400, show_progress=False)
    ends = ((name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]"))
    tokenizer.post_processor = BertProcessing(*ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.3,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def recipe_for(folder: Path, **changes: object) -> RerankerRecipe:
    recipe = RerankerRecipe(
        id="example/tiny-cross-encoder",
        licence="Apache-2.0",
        source=Source(folder=FolderSource(folder)),
        max_tokens=MAX_TOKENS,
        activation="none",
        document_prefix="passage: ",
        gate=RerankerGate(min_spearman=0.9, min_kendall=0.7, min_top1_agreement=0.6),
    )
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="module")
def built(tiny_cross_encoder: Path, build_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reranker")
    reranker.build_reranker(recipe_for(tiny_cross_encoder), out)
    return out


def test_build_scores_as_its_original_does(built: Path) -> None:
    assert sorted(path.name for path in built.rglob("*")) == [
        "model.onnx", "model.onnx.data", "reranker.json", "tokenizer.json"
    ]  # fmt: skip
    figures = reranker.gate_figures(built)
    assert figures["pairs"] == 48 * 8  # six of them are longer than it reads, and cut
    assert figures["spearman"] >= 0.95 and figures["mean_difference"] < 0.1
    assert figures["thresholds"]["spearman"] == 0.9

    ops = [node.op_type for node in onnx.load(built / "model.onnx", load_external_data=False).graph.node]
    assert "MatMulInteger" in ops and "QAttention" in ops


def test_the_bundles_manifest_names_it(built: Path, tiny_cross_encoder: Path) -> None:
    recipe = recipe_for(tiny_cross_encoder)
    section = reranker.section(recipe, built, "reranker")
    assert (section.path, section.max_tokens, section.document_prefix) == ("reranker", MAX_TOKENS, "passage: ")
    assert 0 <= section.private_bytes < 64 * 2**20
    assert str(tiny_cross_encoder) not in json.dumps(dataclasses.asdict(section))
    assert bundle.schema_of((), section) == 2 and bundle.schema_of(()) == 1


def test_the_recipe_digest_of_a_build_without_is_what_it_was() -> None:
    plain = load_recipe()
    without = Build(plain, lambda stage, state: None)
    ranks = recipe_for(Path("/nowhere"))
    elsewhere = recipe_for(Path("/elsewhere"))
    digests = [
        manifest.recipe_digest(Build(dataclasses.replace(plain, reranker=each), without.report))
        for each in (None, ranks, elsewhere, dataclasses.replace(ranks, max_tokens=96))
    ]
    assert digests[0] == manifest.recipe_digest(without)
    assert digests[1] == digests[2]  # the folder's place decides nothing
    assert len(set(digests)) == 3
    assert without.reranker() is None


def test_a_gate_that_is_missed_names_the_figure() -> None:
    good = {"pairs": 9, "spearman": 0.99, "kendall": 0.95, "top1_agreement": 0.97}
    assert reranker_gate.judge(good, RerankerGate())["thresholds"]["kendall"] == 0.9
    for bad in (0.9, float("nan")):
        with pytest.raises(GateError, match=r"spearman .* FAILED") as error:
            reranker_gate.judge({**good, "spearman": bad}, RerankerGate())
        assert "kendall         0.9500   must be >= 0.9000   ok" in str(error.value)
    with pytest.raises(ValueError, match="from 0 to 1"):
        RerankerGate(min_top1_agreement=1.5)


def test_questions_that_do_not_fit_are_left_out() -> None:
    every = reranker_gate.shipped_pairs(lambda question: True)
    short = reranker_gate.shipped_pairs(lambda question: len(question) < 50)
    assert len(every.questions) == len(every.candidates) == len(short.questions) == 48
    assert max(map(len, short.questions)) < 50 < max(map(len, every.questions))
    assert {len(found) for found in every.candidates} == {8}


def test_rank_correlations() -> None:
    rising, falling = np.arange(6.0), -np.arange(6.0)
    assert reranker_gate.spearman(rising, np.exp(rising)) == pytest.approx(1)
    assert reranker_gate.kendall(rising, falling) == pytest.approx(-1)
    assert reranker_gate.ranks(np.array([3.0, 1.0, 3.0])).tolist() == [1.5, 0, 1.5]
    assert reranker_gate.kendall(np.array([0.0, 1, 2]), np.array([0.0, 2, 1])) == pytest.approx(1 / 3)
    assert np.isnan(reranker_gate.spearman(rising, np.ones(6)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["BertModel"]}, "is no cross-encoder: its architecture is BertModel"),
        ({"id2label": {"0": "no", "1": "yes"}}, "has 2 labels: it sorts texts into classes"),
        ({"id2label": None}, "has 2 labels"),
        ({"max_position_embeddings": 40}, r"has places for 40 tokens, and reranker\.max_tokens is 64: lower it"),
    ],
)
def test_a_source_that_is_none(tiny_cross_encoder: Path, tmp_path: Path, change: dict[str, object], said: str) -> None:
    config = json.loads((tiny_cross_encoder / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BuildError, match=said):
        reranker.check_origin(tmp_path, recipe_for(tmp_path))


def test_recipe_refuses_gguf(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is built from safetensors"):
        recipe_for(tmp_path, source=Source(gguf=GgufSource(tmp_path / "x.gguf", "0" * 64)))


def test_optimum_without_its_environment(
    tiny_cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    said = r"environment 'optimum' is not there: run `python scripts/make_environment\.py optimum` in a checkout once"
    with pytest.raises(BuildError, match=said):
        encoder.tools("optimum")
    wanted = dataclasses.replace(load_recipe(), reranker=recipe_for(tiny_cross_encoder, tool="optimum"))
    with pytest.raises(BuildError, match=said):
        Build(wanted, lambda stage, state: None).reranker()
    half = environments.folder("optimum")  # a run of the script that was stopped leaves no stamp
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "python").touch()
    with pytest.raises(BuildError, match=said):
        environments.interpreter("optimum")
    (half / environments.STAMP).write_bytes(environments.lock_file("optimum").read_bytes())
    assert environments.interpreter("optimum") == half / "bin" / "python"


def test_torch_with_cuda_is_refused_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import make_environment

    report = tmp_path / "report.json"

    def pip(command: list[str], **_how: object) -> None:
        wanted = {"requires_dist": ["nvidia-cublas==13; platform_system == 'Linux'"]}
        Path(command[command.index("--report") + 1]).write_text(json.dumps({"install": [{"metadata": wanted}]}))

    monkeypatch.setattr(make_environment.subprocess, "run", pip)
    with pytest.raises(SystemExit, match="give an index of CPU builds"):
        make_environment.check_torch("python", "torch==2.13.0", [], report)
    assert not report.exists()
