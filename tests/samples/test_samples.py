"""The sample corpus and its questions agree: checked on the text that the project's own readers extract."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from edge.config import IngestConfig
from edge.ingest.formats import READERS
from edge.ingest.read import Reader, discover
from edge.types import Document

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
GATE = ROOT / "optimize" / "data" / "gate"
GENERATED = ("commissioning-protocol.docx", "data-sheet.pdf", "fleet.sqlite", "spare-parts.xlsx", "training-day.pptx")


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines()]


def normal(text: str) -> str:
    return " ".join(text.split())


QUESTIONS = lines("questions.jsonl")
ANSWERABLE = [question for question in QUESTIONS if question["answer"] is not None]
UNANSWERABLE = [question for question in QUESTIONS if question["answer"] is None]
FOLLOWUPS = lines("followups.jsonl")


@pytest.fixture(scope="module")
def corpus() -> dict[str, Document]:
    """File name (with `#table` for a database) -> Document."""
    with Reader(IngestConfig()) as reader:
        documents = [document for path in discover([SAMPLES / "documents"]) for document in reader.read(path)]
    return {document.source.rsplit("/", 1)[1]: document for document in documents}


@pytest.mark.process
def test_every_sample_is_read_and_every_format_is_there(corpus: dict[str, Document]) -> None:
    files = {path.name for path in (SAMPLES / "documents").iterdir()}
    assert {name.split("#")[0] for name in corpus} == files
    assert {document.type for document in corpus.values()} == set(READERS)


@pytest.mark.process
@pytest.mark.parametrize("item", ANSWERABLE + FOLLOWUPS, ids=lambda item: item["id"])
def test_evidence_stands_in_its_document_and_nowhere_else(item: dict[str, Any], corpus: dict[str, Document]) -> None:
    evidence = item["evidence"]
    assert normal(evidence) == evidence
    found = {name: normal(document.text).count(evidence) for name, document in corpus.items()}
    assert {name: count for name, count in found.items() if count} == {item["document"]: 1}


@pytest.mark.parametrize("item", ANSWERABLE, ids=lambda item: item["id"])
def test_answer_is_made_of_words_of_its_evidence(item: dict[str, Any]) -> None:
    """The answers are meant to be copied: every number, and nearly every word, stands in the evidence."""
    said, evidence = (re.findall(r"\w+", item[key].lower()) for key in ("answer", "evidence"))
    assert [word for word in said if any(map(str.isdigit, word)) and word not in evidence] == []
    assert sum(any(word[:6] == other[:6] for other in evidence) for word in said) >= 0.75 * len(said)


@pytest.mark.process
@pytest.mark.parametrize("item", [item for item in ANSWERABLE if "page" in item], ids=lambda item: item["id"])
def test_page_is_right(item: dict[str, Any], corpus: dict[str, Document]) -> None:
    document = corpus[item["document"]]
    pages = {
        block.page for block in document.blocks if item["evidence"] in normal(document.text[block.start : block.end])
    }
    assert pages == {item["page"]}


@pytest.mark.process
def test_language_of_every_document_is_told(corpus: dict[str, Document]) -> None:
    told = {name: document.language for name, document in corpus.items()}
    assert told["installasjon-og-feilsoking.md"] == "no"
    assert told["erdung-und-wartung.txt"] == "de"
    assert told["user-manual.md"] == "en"


def test_questions_cover_the_corpus() -> None:
    identities = [item["id"] for item in QUESTIONS + FOLLOWUPS]
    assert len(set(identities)) == len(identities)
    asked = {item["document"].split("#")[0] for item in ANSWERABLE}
    assert asked == {path.name for path in (SAMPLES / "documents").iterdir()}
    languages = [item["language"] for item in ANSWERABLE]
    assert len(ANSWERABLE) >= 40 and languages.count("no") >= 5 and languages.count("de") >= 5
    assert len(UNANSWERABLE) >= 15
    assert len(FOLLOWUPS) == 5 and all(len(item["turns"]) == 2 for item in FOLLOWUPS)
    assert all("page" in item for item in ANSWERABLE if item["document"].endswith(".pdf"))


def test_samples_stay_small() -> None:
    tuning = SAMPLES / "tuning"
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.parent != tuning) < 300_000
    assert sum(path.stat().st_size for path in files if path.parent == tuning) < 850_000


@pytest.mark.process
def test_generated_files_come_from_the_script(tmp_path: Path, corpus: dict[str, Document]) -> None:
    """Needs the two packages that only the script needs; another version of them may write other bytes, same text."""
    pytest.importorskip("reportlab")
    pytest.importorskip("docx")
    script = runpy.run_path(str(ROOT / "scripts" / "make_samples.py"))
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        script["main"](["--out", str(folder)])
        digests.append([hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in GENERATED])
    assert digests[0] == digests[1]
    with Reader(IngestConfig()) as reader:
        made = {
            document.source.rsplit("/", 1)[1]: document.text
            for name in GENERATED
            for document in reader.read(tmp_path / "a" / name)
        }
    assert made == {name: corpus[name].text for name in made}


def test_gate_text_has_no_repeated_paragraph() -> None:
    files = sorted(GATE.glob("*.txt"))
    assert len(files) >= 8
    texts = [path.read_text(encoding="utf-8") for path in files]
    assert sum(len(text.split()) for text in texts) >= 11_000  # about 15,800 tokens of the default model's tokenizer
    prose = [part for text in texts for part in text.split("\n\n") if len(part.split()) > 12]
    assert len(set(prose)) == len(prose)


def test_embedder_sentences_are_two_hundred_different_ones() -> None:
    sentences = (ROOT / "optimize" / "data" / "embedder" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(sentences) == len(set(sentences)) == 200
    assert all(sentence == normal(sentence) and sentence for sentence in sentences)
