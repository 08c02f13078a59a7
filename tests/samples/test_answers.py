"""The questions on the samples, asked of the real model: cited where there is evidence, refused where there is none.

The numbers are those that are reached (docs/decisions.md): two short answers from the line beside the evidence, no
unanswerable question answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.answer import Answer
from edge.box import Box
from edge.chat import Turn, stand_alone
from edge.config import EdgeConfig

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
pytestmark = pytest.mark.model


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines()]


def holds(answer: Answer, item: dict[str, Any]) -> bool:
    """Whether a citation in the right document holds the evidence."""
    cited = [c for c in answer.citations if c.document.endswith(f"/{item['document']}")]
    return any(item["evidence"] in " ".join(citation.text.split()) for citation in cited)


@pytest.fixture(scope="module")
def box(sample_home: Path) -> Iterator[Box]:
    with Box(sample_home / "bundle", sample_home / "index.db", EdgeConfig()) as box:
        yield box


@pytest.fixture(scope="module")
def answers(box: Box) -> dict[str, tuple[dict[str, Any], Answer]]:
    return {item["id"]: (item, box.ask(item["question"])) for item in lines("questions.jsonl")}


def test_answers_are_cited_with_the_evidence(answers: dict[str, tuple[dict[str, Any], Answer]]) -> None:
    asked = [(item, answer) for item, answer in answers.values() if item["answer"] is not None]
    missed = [item["question"] for item, answer in asked if not holds(answer, item)]
    assert len(asked) == 55
    assert len(missed) <= 2, missed


def test_every_language_is_answered(answers: dict[str, tuple[dict[str, Any], Answer]]) -> None:
    for language in ("no", "de"):
        asked = [(i, a) for i, a in answers.values() if i["answer"] is not None and i["language"] == language]
        assert asked and all(holds(answer, item) for item, answer in asked)


def test_a_citation_is_its_span_and_names_the_page(box: Box, answers: dict[str, tuple[dict[str, Any], Answer]]) -> None:
    for item, answer in answers.values():
        for citation in answer.citations:
            document = box.store.document(citation.document)
            assert document is not None
            assert document.text[citation.start : citation.end] == citation.text
            if "page" in item and holds(answer, item) and item["evidence"] in " ".join(citation.text.split()):
                assert citation.page == item["page"]


def test_most_citations_hold_the_evidence(answers: dict[str, tuple[dict[str, Any], Answer]]) -> None:
    """Holding it somewhere is not enough: what stands beside it must not be about something else."""
    asked = [(item, answer) for item, answer in answers.values() if item["answer"] is not None]
    cited = [item["evidence"] in " ".join(c.text.split()) for item, answer in asked for c in answer.citations]
    assert sum(cited) / len(cited) >= 0.95


def test_not_always_the_top_chunk_is_cited(answers: dict[str, tuple[dict[str, Any], Answer]]) -> None:
    markers = {citation.marker for _, answer in answers.values() for citation in answer.citations}
    assert len(markers) > 1


def test_what_the_documents_do_not_hold_is_refused(answers: dict[str, tuple[dict[str, Any], Answer]]) -> None:
    asked = [(item, answer) for item, answer in answers.values() if item["answer"] is None]
    answered = [item["question"] for item, answer in asked if not answer.abstained]
    assert len(asked) == 20
    assert answered == []


def test_follow_ups_find_their_evidence(box: Box) -> None:
    missed = []
    for item in lines("followups.jsonl"):
        first, second = item["turns"]
        history = [Turn(first, box.ask(first).text)]
        whole = stand_alone(second, history, engine=box.engine, retrieve=lambda text: box.retrieve(text, top_k=1))
        if not holds(box.ask(whole), item):
            missed.append((second, whole))
    assert len(missed) <= 1, missed
