"""Retrieval: both scores for every hit, an order by a fusion that is pure, and nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import retrieve as retrieval
from edge.config import ChunkConfig, RetrieveConfig
from edge.errors import UsageError
from edge.ingest.index import Indexer, IngestReport
from edge.lexical import Query, query
from edge.retrieve import Weights, fuse, lexical_score, relevance, retrieve, weigh
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Statistics
from edge.types import Block, Chunk, Document, Hit

DIM = 64


class BagOfWords:
    """Words hashed into a vector: near where words are shared, and known to be so."""

    def embed_query(self, text: str) -> NDArray[np.float32]:
        vector = np.full(DIM, 1e-3, np.float32)
        for word in text.lower().replace("?", " ").replace(".", " ").split():
            vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % DIM] += 1
        return vector / np.linalg.norm(vector)

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.embed_query(text) for text in texts])

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    texts = {
        "reset.txt": ("en", "Hold the reset button for twelve seconds until the light turns amber."),
        "copy.txt": ("en", "Hold the reset button for twelve seconds until the light turns amber."),
        "power.txt": ("en", "The supply is rated at 24 volts. Error E-17 means that the voltage is too low."),
        "strom.txt": ("de", "Die Geräte werden mit 24 Volt versorgt. Fehler E-17 bedeutet zu niedrige Spannung."),
        "hage.txt": ("no", "Hold knappen inne i tolv sekunder til lampen lyser gult."),
    }
    opened = Store.open(tmp_path / "index.db", create=True, fingerprint="f", dim=DIM, chunker="c")
    indexer = Indexer(opened, BagOfWords(), ChunkConfig(60, 10), IngestReport())
    for name, (language, text) in texts.items():
        blocks = (Block(0, len(text)),)
        indexer.put(Document(f"/d/{name}", "h", "txt", name[:-4], text, blocks, language, "2026-01-01"), "{}")
    return opened


def ask(store: Store, question: str, *filters: str, **config: float) -> list[str]:
    hits = retrieve(question, store, BagOfWords(), RetrieveConfig(**config), Filter.parse(filters))  # type: ignore[arg-type]
    return [Path(hit.document).stem for hit in hits]


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("How long must I hold the reset button?", "reset"),
        ("What does error E17 mean?", "power"),
        ("Mit wie viel Volt wird das Gerät versorgt?", "strom"),
        ("Hvor lenge skal knappen holdes inne?", "hage"),
    ],
)
def test_each_language_finds_its_document(store: Store, question: str, first: str) -> None:
    assert ask(store, question)[0] == first


def test_the_same_text_comes_once(store: Store) -> None:
    found = ask(store, "How long must I hold the reset button?")
    assert found.count("reset") + found.count("copy") == 1
    assert ask(store, "How long must I hold the reset button?", "source=copy.txt") == ["copy"]


def test_a_hit_of_one_arm_gets_the_other_score(store: Store) -> None:
    """With a depth of 1 the arms propose different chunks; all the same both scores of each are its own."""
    everything = {h.chunk_id: h for h in retrieve("reset E-17", store, BagOfWords(), RetrieveConfig(), None)}
    for hit in retrieve("reset E-17", store, BagOfWords(), RetrieveConfig(depth=1), None):
        other = everything[hit.chunk_id]
        assert (hit.dense, hit.lexical, hit.score) == (other.dense, other.lexical, other.score)
        assert hit.closest == pytest.approx(other.closest)
        assert hit.dense != 0
        assert hit.score == pytest.approx(fuse(hit.dense, hit.lexical, 0.5))
        assert hit.closest is None or hit.relevance == pytest.approx(relevance(hit.closest, hit.lexical))


def test_scores_are_what_a_direct_computation_gives(store: Store) -> None:
    embedder = BagOfWords()
    for hit in retrieve("Which voltage is too low?", store, embedder, RetrieveConfig(), None):
        text = f"{hit.title}\n{hit.chunk.text}"
        assert hit.dense == pytest.approx(
            float(embedder.embed_query("Which voltage is too low?") @ embedder.embed_query(text)), abs=1e-5
        )
        assert (hit.lexical > 0) == any(word in text.lower() for word in ("voltage", "too low", " low"))


def test_order_top_k_and_weight(store: Store) -> None:
    question = "Error E-17 means what for the voltage?"
    hits = retrieve(question, store, BagOfWords(), RetrieveConfig(top_k=3), None)
    assert len(hits) == 3
    standing = [hit.score + retrieval.NEAREST * (hit.closest or 0) for hit in hits]
    assert standing == sorted(standing, reverse=True)
    for weight, score in ((0.0, "lexical"), (1.0, "dense")):
        hits = retrieve(question, store, BagOfWords(), RetrieveConfig(dense_weight=weight), None)
        assert [getattr(h, score) for h in hits] == pytest.approx([h.score for h in hits])


def test_the_best_hit_does_not_depend_on_how_many_are_wanted(store: Store) -> None:
    question = "Error E-17 means what for the voltage?"
    several = retrieve(question, store, BagOfWords(), RetrieveConfig(top_k=5), None)
    assert retrieve(question, store, BagOfWords(), RetrieveConfig(top_k=1), None) == several[:1]


def test_a_filter_that_leaves_nothing(store: Store) -> None:
    assert ask(store, "reset", "type=pdf") == []


# -- judging


def hit(text: str, score: float, number: int = 1) -> Hit:
    return Hit(number, f"/{number}", "", "txt", "en", Chunk(0, 0, len(text), text), score, score, score)


BLURRED = "Tea is brewed at noon. The crane lifts nine tonnes. Visitors sign the book. The gate is green."
PLAIN = "The crane was bought used and is blue."
LIFTS = "How many tonnes does the crane lift?"


def test_a_chunk_is_judged_by_its_nearest_sentence() -> None:
    """The one sentence that answers outweighs a better score of a chunk as a whole."""
    found = retrieval.judge([hit(PLAIN, 0.40, 1), hit(BLURRED, 0.35, 2)], LIFTS, BagOfWords())
    assert [h.chunk_id for h in found] == [2, 1]
    nearest = max(found[0].near, key=lambda near: near.cosine)
    assert "The crane lifts nine tonnes." in BLURRED[nearest.start : nearest.end]
    assert found[0].closest == nearest.cosine
    assert found[0].score == 0.35  # the fused score stays what it is


def test_few_sentences_are_embedded_and_each_once() -> None:
    embedded: list[str] = []

    class Counting(BagOfWords):
        def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
            embedded.extend(texts)
            return super().embed_documents(texts)

    hits = [hit(BLURRED, 0.5 - number / 100, number) for number in range(20)]
    found = retrieval.judge(hits, LIFTS, Counting())
    assert len(embedded) == len(set(embedded)) == retrieval.WINDOWS
    assert [len(h.near) for h in found] == [retrieval.WINDOWS] * retrieval.JUDGED + [0] * (20 - retrieval.JUDGED)
    assert [h.relevance is not None for h in found].index(False) == retrieval.CALIBRATED
    assert [h.chunk_id for h in found[retrieval.JUDGED :]] == list(range(retrieval.JUDGED, 20))


def test_promising_sentences_share_terms_with_the_question() -> None:
    spans = retrieval.promising(BLURRED, LIFTS, "en")
    assert BLURRED[slice(*spans[0])] == "The crane lifts nine tonnes."
    assert all("crane" in BLURRED[slice(*span)] for span in spans)
    assert retrieval.promising("", LIFTS, "en") == []
    assert len(retrieval.promising(BLURRED, "Qui?", "fr")) == retrieval.WINDOWS  # none shares any: the first ones


def test_nothing_to_judge() -> None:
    assert retrieval.judge([], LIFTS, BagOfWords()) == []
    empty = hit("", 0.3)
    assert retrieval.judge([empty], LIFTS, BagOfWords()) == [empty]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question(store: Store, question: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        ask(store, question)


@pytest.mark.parametrize("question", ['"', "NEAR(a b)", "a AND OR *", "-x", "chunks_fts:y", "?", "🙂", "a" * 5000])
def test_a_question_is_never_syntax(store: Store, question: str) -> None:
    ask(store, question)


def test_an_empty_index_has_no_hits(tmp_path: Path) -> None:
    with Store.open(tmp_path / "empty.db", create=True, fingerprint="f", dim=DIM, chunker="c") as empty:
        assert retrieve("anything", empty, BagOfWords(), RetrieveConfig(), None) == []


# -- the pure parts


def weights_of(question: str, counts: dict[tuple[str, ...], int], chunks: int) -> Weights:
    asked = query(question, "en")
    phrases: list[tuple[str, ...]] = [*((term,) for term in asked.terms), *asked.pairs]
    return weigh(asked, {phrase: counts.get(phrase, 0) for phrase in phrases}, Statistics(chunks, 4.0))


def test_bm25_by_hand() -> None:
    """One term, n = 2 of N = 10, once in a chunk of average length: k1 does not matter, only b's neutral length."""
    weights = Weights({"pump": 1.5}, {})
    expected = (retrieval.K1 + 1) * 1.5 * 1 / (1 + retrieval.K1) / weights.bound
    assert lexical_score(["the", "pump", "is", "on"], weights, Statistics(10, 4.0)) == pytest.approx(expected)


def test_idf_is_positive_and_falls() -> None:
    values = [weights_of("pump", {("pump",): n}, 10).terms["pump"] for n in (0, 1, 5, 10, 99)]
    assert values == sorted(values, reverse=True) and values[-1] > 0


def test_neighbours_side_by_side_score_higher() -> None:
    weights = weights_of("reset button", {("reset",): 3, ("button",): 3, ("reset", "button"): 1}, 100)
    together = lexical_score(["press", "reset", "button", "now"], weights, Statistics(100, 4.0))
    apart = lexical_score(["reset", "press", "button", "now"], weights, Statistics(100, 4.0))
    assert together > apart > 0


def test_a_missing_rare_term_lowers_the_score() -> None:
    """The score is a share of what was asked for: a question about something else as well is matched less."""
    counts = {("button",): 3}
    one = lexical_score(["button"], weights_of("button", counts, 100), Statistics(100, 4.0))
    two = lexical_score(["button"], weights_of("button zeppelin", counts, 100), Statistics(100, 4.0))
    assert two < one / 2


def test_no_term_no_score() -> None:
    assert lexical_score(["else"], weights_of("button", {}, 100), Statistics(100, 4.0)) == 0.0
    assert lexical_score(["else"], weigh(Query((), ()), {}, Statistics(0, 0.0)), Statistics(0, 0.0)) == 0.0


def test_relevance_is_a_probability_that_grows_with_either_score() -> None:
    assert 0 < relevance(-1, 0) < relevance(0.3, 0) < relevance(0.3, 0.4) < relevance(0.8, 0.9) < 1
    assert relevance(0.2, 0.1) < 0.1 and relevance(0.6, 0.8) > 0.9
