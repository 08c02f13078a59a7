"""The check of a data set: each fault is found at its level, and a sound set has none."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence

import pytest

from optimize.dataset import report as dataset_report
from optimize.dataset.answers import cut_off, support
from optimize.dataset.check import Finding, check, percentiles
from optimize.dataset.examples import Example, Sample, Shown
from optimize.dataset.lengths import Length

PLACES = ("harbour", "station", "library", "museum", "bakery", "school", "tower", "garden")


def passage(number: int) -> str:
    """A passage that shares no run of words with another's."""
    name = f"{PLACES[number % 8]} {number}"
    letters = random.Random(number)
    filler = " ".join("".join(letters.choices("aeiourstlnd", k=6)) for _ in range(24))
    return f"{filler} stone. The {name} opened in {1800 + number}."


def example(number: int, **changes: object) -> Example:
    made = Example(
        id=str(number),
        document=f"doc {number // 2}",
        question=f"When did the {PLACES[number % 8]} {number * 7919} open, as {'abcdefgh'[number % 8] * 9} says?",
        passages=(Shown("", passage(number)),),
        answers=(str(1800 + number),),
        support=1,
        origin=f"set.jsonl:{number + 1}",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


SOUND = [example(number) for number in range(240)]
HELD = [example(number) for number in range(300, 320)]


def findings(train: Sequence[Example], held: Sequence[Example] = ()) -> dict[tuple[str, str], Finding]:
    return {(finding.level, finding.check): finding for finding in check(train, held).findings}


def test_a_sound_set_has_no_errors_and_no_warnings() -> None:
    report = check(SOUND, HELD)
    assert [finding for finding in report.findings if finding.level != "info"] == []
    assert not report.failed
    assert report.figures["examples"] == 240 and report.figures["documents"] == 120
    assert report.figures["answers_verbatim"] == 240


def test_sizes() -> None:
    assert ("error", "size") in findings([])
    assert "one example" in findings([SOUND[0]])["error", "size"].message
    assert ("warning", "size") in findings(SOUND[:20])
    assert "all examples are of one document" in findings(
        [dataclasses.replace(one, document="d") for one in SOUND]
    )["error", "size"].message  # fmt: skip


def words(samples: Sequence[Sample]) -> list[Length]:
    return [Length(sum(len(turn.content.split()) for turn in s.prompt), len(s.completion.split())) for s in samples]


def test_lengths_against_the_context() -> None:
    long = example(500, passages=(Shown("", "word " * 900 + passage(500)),))
    report = check([*SOUND, long], measure=words, context_tokens=300)
    (finding,) = [one for one in report.findings if one.check == "length"]
    assert (finding.level, finding.count) == ("warning", 1)  # one of many is left out; many are an error
    assert finding.places[0].startswith("set.jsonl:501: 9")
    assert report.figures["total_tokens"]["max"] > 900
    report = check(SOUND, measure=words, context_tokens=10)
    assert report.failed and [one.count for one in report.findings if one.check == "length"] == [240]


def test_percentiles_are_values_that_occur() -> None:
    assert percentiles([3, 1, 2]) == {"min": 1, "p50": 2, "p90": 3, "p99": 3, "max": 3}
    assert percentiles([]) == {}


def test_duplicates_and_near_duplicates() -> None:
    twice = dataclasses.replace(SOUND[4], id="again", origin="set.jsonl:999")
    almost = dataclasses.replace(SOUND[4], id="b", question=SOUND[4].question.replace("says?", "says"))
    near = dataclasses.replace(SOUND[5], id="c", question=SOUND[5].question.replace("says?", "said?"))
    found = check([*SOUND, twice, almost, near])
    assert found.figures["duplicates"] == 2 and found.figures["near_duplicates"] == 1
    (warning,) = [one for one in found.findings if (one.level, one.check) == ("warning", "duplicates")]
    assert warning.places[0].startswith("set.jsonl:5 = set.jsonl:999")


def test_the_same_question_about_other_passages_is_no_duplicate() -> None:
    other = dataclasses.replace(SOUND[4], id="o", passages=SOUND[9].passages, answers=SOUND[9].answers)
    assert ("warning", "duplicates") not in findings([*SOUND, other])


def test_documents_that_share_passages_are_named() -> None:
    copy = example(600, passages=(Shown("", passage(8) + " So."),), answers=("1808",))
    assert "doc 300" in findings([*SOUND, copy])["warning", "duplicates"].places[0]


@pytest.mark.parametrize(
    ("leaked", "level"),
    [
        (example(900, document="doc 3"), "error"),
        (example(901, passages=SOUND[6].passages), "error"),
        (example(902, passages=(Shown("", "Before. " + passage(6) + " And behind it."),)), "error"),
        (example(903, question=SOUND[6].question), "warning"),
    ],
    ids=["document", "passage", "part of a passage", "question"],
)
def test_leakage(leaked: Example, level: str) -> None:
    found = [one for one in check(SOUND, [*HELD, leaked]).findings if one.check == "leakage"]
    assert [one.level for one in found] == [level]
    assert found[0].count == 1


def test_a_distractor_in_training_that_a_held_out_answer_stands_in_is_leakage() -> None:
    seen = dataclasses.replace(SOUND[0], passages=(*SOUND[0].passages, HELD[0].passages[0]))
    assert ("error", "leakage") in findings([seen, *SOUND[1:]], HELD)


def test_contradictions() -> None:
    other = dataclasses.replace(SOUND[7], id="x", answers=("harbour",))
    none = dataclasses.replace(SOUND[8], id="y", answers=(), support=None)
    same = dataclasses.replace(SOUND[9], id="z", answers=(f"in {SOUND[9].answers[0]}",))
    found = findings([*SOUND, other, none, same])["warning", "conflicts"]
    assert found.count == 2
    assert "'1807' or 'harbour'" in found.places[0] and "or no answer" in found.places[1]
    many = [dataclasses.replace(one, id=f"m{one.id}", answers=("stone",)) for one in SOUND[:20]]
    assert ("error", "conflicts") in findings([*SOUND, *many])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("the harbour,", "ends with ','"),
        ("opened in 18", "within a word"),
        ("it opened long before the war because of the", "ends with 'the'"),
        ("1806", None),
        ("something else", None),
    ],
)
def test_answers_that_are_cut_off(answer: str, why: str | None) -> None:
    found = cut_off(dataclasses.replace(SOUND[6], answers=(answer,)))
    assert found is None if why is None else found is not None and why in found


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("The  TOWER 6 opened", "verbatim"), ("in 1806 opened tower", "words"), ("in 1807 opened tower", "none"),
     ("purple", "none")],
)  # fmt: skip
def test_support_by_the_passages(answer: str, kind: str) -> None:
    assert support(dataclasses.replace(SOUND[6], answers=(answer,))) == kind


def test_answers_that_no_passage_holds_are_found() -> None:
    made_up = dataclasses.replace(SOUND[6], answers=("a purple elephant",))
    assert findings([made_up, *SOUND[7:]])["warning", "support"].count == 1


def test_answers_that_are_all_alike_or_all_missing() -> None:
    alike = [dataclasses.replace(one, answers=("Yes",)) for one in SOUND]
    assert "all answers are alike" in findings(alike)["error", "answers"].message
    assert "'yes'" in findings([*alike[:200], *SOUND[200:]])["warning", "answers"].message
    none = [dataclasses.replace(one, answers=(), support=None) for one in SOUND]
    assert "no example has an answer" in findings(none)["error", "answers"].message
    assert (
        "hold no word"
        in findings([dataclasses.replace(SOUND[0], answers=("--",)), *SOUND[1:]])["error", "answers"].message
    )


def test_secrets_are_errors_addresses_warnings_and_neither_is_shown() -> None:
    key = "ghp_" + "a1" * 18
    leak = dataclasses.replace(SOUND[0], passages=(Shown("", f"{passage(0)} {key} jane@corp.de"),))
    found = findings([leak, *SOUND[1:]])
    assert "GitHub token" in found["error", "secrets"].places[0]
    assert key not in repr(found) and "jane" not in repr(found)
    assert found["warning", "emails"].count == 1
    assert ("error", "secrets") in findings(SOUND, [leak])  # held-out text is read by people too


def test_languages() -> None:
    german = Shown("", "Der Bahnhof wurde von der Stadt eröffnet und liegt mitten im Dorf an der alten Straße.")
    some = [dataclasses.replace(one, passages=(german,), answers=("im Dorf",), question="Wo liegt der Bahnhof genau?")
            for one in SOUND[:60]]  # fmt: skip
    english = Shown("", "The station was opened by the city and lies in the middle of the village near the old road.")
    others = [dataclasses.replace(one, passages=(english,), question="Where is the station?") for one in SOUND[60:]]
    assert check(others).figures["languages"].keys() == {"en"}
    mixed = check([*some, *others])
    assert mixed.figures["languages"] == {"en": 0.75, "de": 0.25}
    assert any(one.check == "languages" for one in mixed.findings)


def test_the_report_as_lines_and_as_a_page() -> None:
    pytest.importorskip("matplotlib")
    bad = dataclasses.replace(SOUND[0], answers=("<b>elephant</b>",))
    report = check([bad, *SOUND[1:]], measure=words, context_tokens=300)
    shown = "\n".join(dataset_report.lines(report))
    assert "warning  support: 1 answers are not supported" in shown and "examples                   240" in shown
    page = dataset_report.page("set.jsonl", report)
    assert page.count("data:image/svg+xml;base64,") == 4
    assert "<b>elephant" not in page and "&lt;b&gt;elephant" in page
    assert set(re.findall(r'(?:src|href)="?([a-z]+:)', page)) == {"data:"}
