from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import bundle
from edge.bundle import EmbedderSection
from edge.embed import OnnxEmbedder
from edge.errors import EngineError, UsageError
from tests.fakes import write_tiny_embedder

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "embedder.npz"
SECTION = EmbedderSection(
    path="embedder",
    base=bundle.BaseModel("example/tiny", "made up", "1" * 64, "Apache-2.0"),
    dim=8,
    pooling="mean",
    max_tokens=8,
    query_prefix="",
    document_prefix="",
    fingerprint="",
)
CLS, SEP, ALPHA, BETA, GAMMA, DELTA, QUERY, PASSAGE, COLON = range(1, 10)


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


def pooled(table: NDArray[np.float32], *ids: int) -> NDArray[np.float32]:
    return unit(table[[CLS, *ids, SEP]].mean(axis=0))


@pytest.mark.parametrize("types", [True, False], ids=["token_type_ids", "no token_type_ids"])
def test_vectors_are_the_mean_of_all_tokens(tmp_path: Path, types: bool) -> None:
    table = write_tiny_embedder(tmp_path, types=types)
    with OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder:
        vectors = embedder.embed_documents(["alpha beta", "gamma gamma gamma", ""])
        assert vectors.shape == (3, 8) and vectors.dtype == np.float32
        for vector, ids in zip(vectors, [(ALPHA, BETA), (GAMMA,) * 3, ()], strict=True):
            np.testing.assert_allclose(vector, pooled(table, *ids), rtol=1e-5)
        np.testing.assert_array_equal(embedder.embed_query("alpha beta"), vectors[0])
        assert embedder.embed_documents([]).shape == (0, 8)


def test_first_token_pooling(tmp_path: Path) -> None:
    table = write_tiny_embedder(tmp_path)
    with OnnxEmbedder(tmp_path, dataclasses.replace(SECTION, pooling="cls"), threads=1) as embedder:
        np.testing.assert_allclose(embedder.embed_query("alpha"), unit(table[CLS]), rtol=1e-6)


def test_prefixes(tmp_path: Path) -> None:
    table = write_tiny_embedder(tmp_path)
    section = dataclasses.replace(SECTION, query_prefix="query: ", document_prefix="passage: ")
    with OnnxEmbedder(tmp_path, section, threads=1) as embedder:
        np.testing.assert_allclose(embedder.embed_query("alpha"), pooled(table, QUERY, COLON, ALPHA), rtol=1e-5)
        (document,) = embedder.embed_documents(["alpha"])
        np.testing.assert_allclose(document, pooled(table, PASSAGE, COLON, ALPHA), rtol=1e-5)
        assert embedder.count_tokens("alpha") == 5
        assert embedder.token_offsets("alpha, beta") == [(0, 5), (5, 6), (7, 11)]


def test_document_of_exactly_the_limit_fits_and_one_token_more_is_refused(tmp_path: Path) -> None:
    table = write_tiny_embedder(tmp_path)
    with OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder:
        full = " ".join(["alpha"] * 5 + ["beta"])
        assert embedder.count_tokens(full) == SECTION.max_tokens
        (vector,) = embedder.embed_documents([full])
        np.testing.assert_allclose(vector, pooled(table, *[ALPHA] * 5, BETA), rtol=1e-5)
        with pytest.raises(EngineError, match=r"a text of 9 tokens .* than the 8 .* lower ingest\.chunk"):
            embedder.embed_documents(["alpha", full + " beta"])


def test_the_beginning_of_a_document_fits(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path)
    with OnnxEmbedder(tmp_path, dataclasses.replace(SECTION, document_prefix="passage: "), threads=1) as embedder:
        for count in range(1, 9):
            text = "alpha " * count
            cut = embedder.cut(text)
            assert text.startswith(cut)
            assert embedder.count_tokens(cut) == min(embedder.count_tokens(text), embedder.max_tokens)


def test_long_question_is_read_to_its_end(tmp_path: Path) -> None:
    table = write_tiny_embedder(tmp_path)
    section = dataclasses.replace(SECTION, query_prefix="query: ")  # leaves room for 4 of 8 tokens
    with OnnxEmbedder(tmp_path, section, threads=1) as embedder:
        vector = embedder.embed_query("alpha alpha alpha alpha beta beta beta beta gamma delta")
    windows = [(ALPHA,) * 4, (BETA,) * 4, (GAMMA, DELTA)]
    parts = [(4 + len(ids)) * pooled(table, QUERY, COLON, *ids) for ids in windows]
    np.testing.assert_allclose(vector, unit(np.sum(parts, axis=0)), rtol=1e-5)


def test_empty_question(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path)
    with OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder, pytest.raises(UsageError, match="question is empty"):
        embedder.embed_query(" \n")


def test_broken_characters_are_unknown_tokens(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path)
    with OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder:
        np.testing.assert_array_equal(embedder.embed_query("alpha \udce9"), embedder.embed_query("alpha ?"))
        assert embedder.token_offsets("\udce9 alpha") == [(0, 1), (2, 7)]


def test_progress(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path)
    seen: list[tuple[int, int]] = []
    with OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder:
        embedder.embed_documents(["alpha", "beta"], lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


def test_model_that_gives_no_direction(tmp_path: Path) -> None:
    for fill in (0.0, float("nan"), float("inf")):
        write_tiny_embedder(tmp_path, fill=fill)
        with OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder, pytest.raises(EngineError, match="bundle verify"):
            embedder.embed_documents(["alpha"])


def test_model_that_does_not_fit_its_manifest(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path, dim=4)
    with (
        OnnxEmbedder(tmp_path, SECTION, threads=1) as embedder,
        pytest.raises(EngineError, match="gives 4 dimensions and its manifest says 8"),
    ):
        embedder.embed_query("alpha")
    write_tiny_embedder(tmp_path, output="logits")
    with pytest.raises(EngineError, match=r"no output last_hidden_state \(it has logits\)"):
        OnnxEmbedder(tmp_path, SECTION, threads=1)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_missing_and_damaged_files(tmp_path: Path, name: str) -> None:
    write_tiny_embedder(tmp_path)
    (tmp_path / name).write_bytes(b"\x00damaged")
    with pytest.raises(EngineError, match=rf"{name}: cannot be loaded.*edge bundle verify"):
        OnnxEmbedder(tmp_path, SECTION, threads=1)
    (tmp_path / name).unlink()
    with pytest.raises(EngineError, match=rf"{name}: cannot be loaded"):
        OnnxEmbedder(tmp_path, SECTION, threads=1)


def test_closed_embedder_says_so(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path)
    embedder = OnnxEmbedder(tmp_path, SECTION, threads=1)
    embedder.close()
    embedder.close()
    with pytest.raises(EngineError, match="closed"):
        embedder.embed_query("alpha")


@pytest.fixture(scope="module")
def real(default_bundle: Path) -> OnnxEmbedder:
    section = bundle.load(default_bundle).manifest.embedder
    return OnnxEmbedder(default_bundle / section.path, section, threads=2)


@pytest.mark.model
def test_golden_vectors_of_the_original(real: OnnxEmbedder) -> None:
    with np.load(GOLDEN) as golden:
        texts, theirs = [str(text) for text in golden["texts"]], golden["vectors"]
    vectors = real.embed_documents(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = np.sum(vectors * theirs, axis=1)
    assert cosines.mean() >= 0.99 and cosines.min() >= 0.97
    assert np.array_equal((vectors @ theirs.T).argmax(axis=1), np.arange(len(texts)))


@pytest.mark.model
def test_same_text_gives_same_vector_whatever_stands_beside_it(real: OnnxEmbedder) -> None:
    text = "The red lamp blinks three times when the motor is overloaded."
    together = real.embed_documents(["Short.", text, "A much longer text. " * 20])
    np.testing.assert_array_equal(together[1], real.embed_query(text))


@pytest.mark.model
def test_real_tokenizer_has_no_hidden_limit(real: OnnxEmbedder) -> None:
    text = "pressure " * 240
    assert real.count_tokens(text) == 242
    assert len(real.token_offsets(text)) == 240
    with pytest.raises(EngineError, match="of 302 tokens"):
        real.embed_documents(["pressure " * 300])


@pytest.mark.model
def test_the_default_embedder_keeps_to_its_memory(default_bundle: Path) -> None:
    """At most 60 MB private after embedding one text of full length (docs/decisions.md); measured when it was built."""
    assert bundle.load(default_bundle).manifest.memory.embedder_private_bytes <= 60 * 10**6
