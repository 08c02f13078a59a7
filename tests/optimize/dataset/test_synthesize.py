"""Questions from documents: each answer stands in its passage, each question says what it is about."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge import lexical
from edge.errors import DatasetError, StoreMissing
from edge.store.chunks import Store
from edge.types import Block, Chunk, Document
from optimize import dataset
from optimize.dataset.check import check
from optimize.dataset.rules import names_something, questions, row_questions
from optimize.dataset.synthesize import Synthesized, synthesize

TEXTS = {
    "pump.txt": (
        "en",
        "The Nordvik pump weighs 480 grams. It is grey.\n"
        "The Nordvik pump was built in 1998 by hand.\n"
        "The housing of the pump is a casting of bronze.",
    ),
    "valve.txt": (
        "en",
        "The Nordvik valve is sold with the pump and the filter.\nThe valve weighs less than the pump does.",
    ),
    "filter.txt": ("en", "The filter of the pump keeps sand for 12 weeks.\nA pump needs a filter and a valve."),
    "wartung.txt": (
        "de",
        "Der Schutzleiter darf höchstens 50 Zentimeter lang sein.\nDie Uhrbatterie ist eine Knopfzelle.",
    ),
    "parts.csv": (
        "en",
        "part: Clock battery; price: EUR 2.75; stock: 14\npart: Wall antenna; price: EUR 57.60; stock: 3",
    ),
    "pumpe.txt": ("no", "Pumpen veier 480 gram."),
}  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose chunks are the lines of small documents."""
    path = tmp_path_factory.mktemp("index") / "index.db"
    rng = np.random.default_rng(0)
    with Store.open(path, create=True, fingerprint="f", dim=4, chunker="c") as store:
        for name, (language, text) in TEXTS.items():
            chunks, at = [], 0
            for ordinal, line in enumerate(text.split("\n")):
                chunks.append(Chunk(ordinal, at, at + len(line), line, ("Head",)))
                at += len(line) + 1
            document = Document(
                f"/d/{name}", name, "txt", "Title", text, (Block(0, len(text)),), language, "2026-01-01"
            )
            vectors = rng.normal(size=(len(chunks), 4)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            store.replace(document, chunks, vectors, [lexical.terms(chunk.text, language) for chunk in chunks])
    return path


def asked(made: Synthesized) -> dict[str, str | None]:
    return {row["question"]: row["answer"] for row in map(json.loads, made.lines)}


def test_all_of_it_is_made_from_the_documents(index: Path) -> None:
    made = synthesize(index, unanswerable=0.0)
    assert asked(made) == {
        "How much does the Nordvik pump weigh?": "480 grams",
        "When was the Nordvik pump built?": "1998",
        "What is the housing of the pump?": "a casting of bronze",
        "For how long does the filter of the pump keep sand?": "12 weeks",
        "Wie viel darf der Schutzleiter höchstens lang sein?": "höchstens 50 Zentimeter",
        "Was ist die Uhrbatterie?": "eine Knopfzelle",
        "What is the price of part Clock battery?": "EUR 2.75",
        "What is the stock of part Clock battery?": "14",
        "What is the price of part Wall antenna?": "EUR 57.60",
        "What is the stock of part Wall antenna?": "3",
    }
    assert made.documents == 4 and made.unanswerable == 0 and made.by_rule["row"] == 4


def test_what_is_written_can_be_read_and_holds(index: Path, tmp_path: Path) -> None:
    made = synthesize(index, unanswerable=0.4, seed=3)
    path = tmp_path / "s.jsonl"
    path.write_text("".join(line + "\n" for line in made.lines), encoding="utf-8")
    examples = dataset.read(path)
    assert all(example.synthetic for example in examples)
    assert made.unanswerable == sum(not example.answers for example in examples) > 0
    for example in examples:
        holding = [
            at for at, one in enumerate(example.passages, 1) if example.answers and example.answers[0] in one.text
        ]
        assert holding == ([example.support] if example.answers else [])
        assert 1 <= len(example.passages) <= 3
        assert all(one.heading == "Title > Head" for one in example.passages)
    assert not check(examples).failed


def test_a_question_without_answer_is_shown_other_documents_only(index: Path) -> None:
    answered = asked(synthesize(index, unanswerable=0.0))
    texts = {text: name for name, (_, whole) in TEXTS.items() for text in whole.split("\n")}
    seen = 0
    for seed in range(5):
        for row in map(json.loads, synthesize(index, unanswerable=0.9, seed=seed).lines):
            if row["answer"] is None:
                seen += 1
                assert row["unanswerable"] is True
                for passage in row["context"]:
                    assert f"/d/{texts[passage['text']]}" != row["document"]
                    assert str(answered[row["question"]]) not in passage["text"]
    assert seen > 5


def test_the_seed_decides_and_the_limit_is_spread_over_documents(index: Path) -> None:
    assert synthesize(index, seed=4) == synthesize(index, seed=4)
    assert synthesize(index, seed=4) != synthesize(index, seed=5)
    made = synthesize(index, limit=4, unanswerable=0.0)
    assert len(made.lines) == made.documents == 4


def test_a_question_with_two_answers_is_left_out(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.db"
    text = "The Nordvik pump weighs 480 grams.\nThe Nordvik pump weighs 510 grams."
    with Store.open(path, create=True, fingerprint="f", dim=1, chunker="c") as store:
        document = Document("/d/a", "h", "txt", "T", text, (Block(0, len(text)),), "en", "2026-01-01")
        store.replace(document, [Chunk(0, 0, len(text), text)], np.ones((1, 1), np.float32), [["nordvik"]])
    with pytest.raises(DatasetError, match="no sentence of the documents fits a rule"):
        synthesize(path)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing):
        synthesize(tmp_path / "none.db")


@pytest.mark.parametrize(
    ("sentence", "language", "question", "answer"),
    [
        ("The firmware update takes about six minutes.", "en",
         "How long does the firmware update take?", "about six minutes"),
        ("The supply cable costs EUR 4.90.", "en", "How much does the supply cable cost?", "EUR 4.90"),
        ("Marie Curie was born in 1867 in Warsaw.", "en", "When was Marie Curie born?", "1867"),
        ("The gateway is made by Halden Instruments.", "en",
         "By whom or what is the gateway made?", "Halden Instruments"),
        ("The front has four lamps.", "en", "How many lamps does the front have?", "four"),
        ("The operating temperature is -30 to +65 degrees.", "en",
         "What is the operating temperature?", "-30 to +65 degrees"),
        ("GW-200 is an edge gateway for pumps, dams and farms.", "en",
         "What is GW-200?", "an edge gateway for pumps, dams and farms"),
        ("The gateway sends a sign of life every 45 seconds.", "en",
         "How often does the gateway send a sign of life?", "every 45 seconds"),
        ("Der Erdungsbolzen sitzt links unten am Gehäuse.", "de",
         "Wo befindet sich der Erdungsbolzen?", "links unten am Gehäuse"),
        ("Das Rathaus wurde im Jahr 1998 eröffnet.", "de", "Wann wurde das Rathaus eröffnet?", "1998"),
        ("Er wurde im Jahr 1998 eröffnet.", "de", None, None),
        ("Das Rohr ist ein Teil.", "de", None, None),
        # No question: nothing is named, it is no statement, or a clause is in the way.
        ("It weighs 480 grams.", "en", None, None),
        ("This is a manual.", "en", None, None),
        ("The box is a box.", "en", None, None),
        ("The yield of cases was 47 percent with drugs.", "en", "What was the yield of cases?", "47 percent"),
        ("The Bufavirus strain is a member of a family and was described.", "en", None, None),
        ("The same antibody was used in 2005.", "en", None, None),
        ("The device is 45 mm wide.", "en", None, None),
        ("If the lamp is red, the pump is a brick.", "en", None, None),
        ("The course lasts four hours and has two breaks.", "en", "How long does the course last?", "four hours"),
        ("There are three lamps on the front.", "en", None, None),
        ("Is the pump a good pump?", "en", None, None),
        ("La pompe pèse 480 grammes.", "fr", None, None),
    ],
)  # fmt: skip
def test_sentences(sentence: str, language: str, question: str | None, answer: str | None) -> None:
    found = [(one.question, one.answer) for one in questions(sentence, language)]
    assert found == ([(question, answer)] if question else [])


def test_rows() -> None:
    row = "id: 4; serial: HG200; site: Granli dam; installed_on: 2024-05-21; field_devices: 9; note: none; again: HG200"
    assert [(one.question, one.answer) for one in row_questions(row, "en")] == [
        ("What is the site of serial HG200?", "Granli dam"),
        ("What is given as “installed on” for serial HG200?", "2024-05-21"),
        ("What are the field devices of serial HG200?", "9"),
    ]
    (first, _) = row_questions("Name: Pumpe Nord; Ort: Halle 4; Baujahr: 1998", "de")
    assert first.question == "Was steht bei Pumpe Nord unter „Ort“?"
    assert list(row_questions("a sentence; with: marks", "en")) == []
    assert list(row_questions("a: 1; b: 2; c: 3", "en")) == []  # nothing names the row


@pytest.mark.parametrize("subject", ["it", "the device", "the pump and", "which of the pumps", "a box", "this gateway"])
def test_subjects_that_say_too_little(subject: str) -> None:
    assert not names_something(subject, "en")
