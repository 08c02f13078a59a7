"""The reranker at run time: relevance, prefixes, cuts, and what it refuses; and hits in another order by it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge import bundle
from edge.box import Box
from edge.cli.main import cli
from edge.config import EdgeConfig, RerankConfig, RetrieveConfig, parse
from edge.errors import ConfigError, EngineError, UsageError
from edge.ingest.index import ingest
from edge.rerank import OnnxReranker, reranked
from edge.types import Chunk, Hit
from tests.fakes import manifest_of, write_bundle, write_seal, write_tiny_embedder
from tests.rerankers import section_of, write_tiny_reranker

WORDS = {"alpha": 1.0, "beta": 2.0, "gamma": -3.0, "passage": 0.5, ":": 0.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_reranker(tmp_path / "reranker", WORDS)
    return tmp_path / "reranker"


def hit(text: str, place: int) -> Hit:
    return Hit(place, f"/d/{place}.txt", "", "txt", "en", Chunk(0, 0, len(text), text), 0.5, 1.0, 1.0 - place / 10)


def test_relevance_is_the_models_output_in_the_order_given(folder: Path) -> None:
    texts = ["alpha beta", "gamma", "beta beta beta", ""]
    with OnnxReranker(folder, section_of(), threads=2) as reranker:
        scored = reranker.score("gamma gamma", texts)  # the question's words do not count
    assert [one.relevance for one in scored] == [3.0, -3.0, 6.0, 0.0]
    assert [one.tokens for one in scored] == [7, 6, 8, 5] and not any(one.is_cut for one in scored)


def test_sigmoid_and_prefixes_are_the_manifests(folder: Path) -> None:
    section = section_of(activation="sigmoid", document_prefix="passage: ", query_prefix="alpha ")
    with OnnxReranker(folder, section, threads=1) as reranker:
        (scored,) = reranker.score("beta", ["alpha"])
    assert scored.relevance == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert scored.tokens == 2 + 3 + 3  # two of the question, three of the passage, three special


def test_a_passage_is_cut_where_the_model_ends_and_it_is_said(folder: Path) -> None:
    with OnnxReranker(folder, section_of(), threads=1) as reranker:
        room = 32 - 1 - 3
        full, cut = reranker.score("alpha", ["alpha " * room, "alpha " * room + "beta"])
    assert (full.relevance, full.tokens, full.is_cut) == (room, 32, False)
    assert (cut.relevance, cut.tokens, cut.is_cut) == (room, 32, True)


def test_a_tokenizer_that_adds_nothing_still_tells_question_and_passage_apart(folder: Path) -> None:
    plain = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**plain, "post_processor": None}))
    with OnnxReranker(folder, section_of(), threads=1) as reranker:
        (scored,) = reranker.score("beta", ["alpha alpha"])
    assert (scored.relevance, scored.tokens) == (2.0, 3)


def test_bad_input(folder: Path) -> None:
    with OnnxReranker(folder, section_of(), threads=1) as reranker:
        reranker.score("alpha " * 16, ["beta"])
        with pytest.raises(UsageError, match=r"has 18 tokens and the reranker reads 16 of one: shorten it by 2"):
            reranker.score("alpha " * 18, ["beta"])
        with pytest.raises(UsageError, match="the question is empty"):
            reranker.score(" ", ["beta"])
        assert reranker.score("alpha", []) == []
        assert reranker.score("\ud800", ["\ud800 beta"])[0].relevance == 2.0
    with pytest.raises(EngineError, match=r"cannot be loaded: .* `edge bundle verify`"):
        OnnxReranker(folder / "none", section_of(), threads=1)


def test_a_model_that_gives_no_relevance(tmp_path: Path) -> None:
    write_tiny_reranker(tmp_path / "two", WORDS, labels=2)
    with (
        OnnxReranker(tmp_path / "two", section_of(), threads=1) as reranker,
        pytest.raises(EngineError, match="gives 2 scores"),
    ):
        reranker.score("alpha", ["beta"])
    write_tiny_reranker(tmp_path / "nan", {"alpha": float("nan")})
    with (
        OnnxReranker(tmp_path / "nan", section_of(), threads=1) as reranker,
        pytest.raises(EngineError, match="not finite"),
    ):
        reranker.score("alpha", ["alpha"])
    write_tiny_embedder(tmp_path / "embedder")
    with pytest.raises(EngineError, match=r"no output logits \(it has last_hidden_state\)"):
        OnnxReranker(tmp_path / "embedder", section_of(), threads=1)


def test_only_the_candidates_change_their_order(folder: Path) -> None:
    hits = [hit(text, place) for place, text in enumerate(["gamma", "alpha", "beta", "beta beta"])]
    with OnnxReranker(folder, section_of(), threads=1) as reranker:
        found = reranked(hits, "delta", reranker, candidates=3)
    assert [(one.chunk.text, one.reranked) for one in found] == [
        ("beta", 2.0), ("alpha", 1.0), ("gamma", -3.0), ("beta beta", None)
    ]  # fmt: skip


@pytest.mark.parametrize("candidates", [1, 101])
def test_configuration(candidates: int) -> None:
    assert RetrieveConfig().rerank == RerankConfig(enabled=False, candidates=16)
    with pytest.raises(ConfigError, match="candidates"):
        parse(EdgeConfig, f"retrieve: {{rerank: {{candidates: {candidates}}}}}", "edge.yaml")


@pytest.fixture
def bare(edge_home: Path) -> Path:
    """An EDGE_HOME with a bundle that retrieves, but holds no model that writes."""
    folder = write_bundle(edge_home / "bundle")
    sizes = {"model": {"decoder": {"hidden_size": 8}, "vocab_size": 16}}
    (folder / "model" / "genai_config.json").write_text(json.dumps(sizes))
    (folder / "embedder" / "model.onnx.data").unlink()
    write_tiny_embedder(folder / "embedder")
    write_tiny_reranker(folder / "reranker", {"alpha": 1.0, "delta": 3.0})
    seal(folder, section_of())
    return edge_home


@pytest.fixture
def home(tmp_path: Path, bare: Path) -> Path:
    """The same with an index of four documents."""
    documents = tmp_path / "documents"
    documents.mkdir()
    for name, text in (
        ("a", "alpha alpha"),
        ("b", "alpha beta delta"),
        ("c", "beta gamma"),
        ("d", "gamma delta delta"),
    ):
        (documents / f"{name}.txt").write_text(text)
    with Box(bare / "bundle", bare / "index.db", EdgeConfig()) as box:
        ingest([documents], box.open_store(create=True), box.embedder, box.config.ingest)
    return bare


def seal(folder: Path, section: bundle.RerankerSection | None) -> None:
    plain = manifest_of(folder)
    schema = bundle.schema_of((), section)
    write_seal(folder, dataclasses.replace(plain, schema=schema, reranker=section))


def searched(*options: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(cli, ["search", "alpha alpha", "--json", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: list[dict[str, object]] = json.loads(done.stdout)["hits"]
    return found


def test_search_in_another_order(home: Path) -> None:
    plain, ranked = searched(), searched("--rerank")
    assert {Path(str(one["document"])).stem for one in plain} == {Path(str(one["document"])).stem for one in ranked}
    assert Path(str(plain[0]["document"])).stem == "a" and all(one["reranked"] is None for one in plain)
    order = [Path(str(one["document"])).stem for one in ranked]
    assert order == ["d", "b", "a", "c"]
    assert [one["reranked"] for one in ranked] == [6.0, 4.0, 2.0, 0.0]
    assert [one["relevance"] is None for one in ranked] == [False, False, True, True]  # those of the best two
    (home / "config.yaml").write_text("retrieve: {rerank: {enabled: true}}")
    assert searched() == ranked
    assert searched("--no-rerank") == plain


def test_it_is_in_the_ledger(bare: Path) -> None:
    for enabled in (False, True):
        config = parse(EdgeConfig, f"retrieve: {{rerank: {{enabled: {str(enabled).lower()}}}}}", "edge.yaml")
        with Box(bare / "bundle", bare / "index.db", config) as box:
            assert (box.parts.reranker.private_bytes > 0) is enabled


def test_a_bundle_without(bare: Path) -> None:
    seal(bare / "bundle", None)
    for command in ("search", "ask"):
        with pytest.raises(UsageError, match="has no reranker: build it with a recipe that names one"):
            CliRunner().invoke(cli, [command, "alpha", "--rerank"], catch_exceptions=False)
