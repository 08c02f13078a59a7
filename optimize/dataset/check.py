"""What is wrong with a set of examples before anything is trained on it: findings, and the figures behind them.

Errors make a training run worthless or harmful (held-out questions in training, secrets, nothing to learn), warnings
make it worse, and what is merely worth knowing is info.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optimize.dataset import answers, leakage
from optimize.dataset.duplicates import groups, normal
from optimize.dataset.examples import Example, sample
from optimize.dataset.lengths import Measure
from optimize.dataset.rows import place_of
from optimize.dataset.sensitive import Sensitive, find

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")
FEW_EXAMPLES = 200  # below this, a learning curve should say first whether tuning changes anything
ANSWER_TOKENS = 96  # answer.max_tokens of `edge`: what is longer is never finished
TOLERATED = 0.01  # share of examples that may be wrong in a way that costs only themselves
_SHOWN = 5
_LANGUAGE_SAMPLE, _LANGUAGE_CHARACTERS = 1000, 300
_LEAST_LANGUAGE = 0.01  # share of examples; below it the detection may have erred


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know of a set."""

    level: Level
    check: str  # "leakage", "duplicates", ...: one word for scripts
    message: str
    count: int = 0  # examples it is about
    places: tuple[str, ...] = ()  # where the first few of them are, with what is wrong


@dataclass(slots=True)
class Report:
    """Findings, worst first, and figures; `series` holds one value per example, for drawing."""

    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    def add(self, level: Level, check: str, message: str, places: Sequence[str] = (), count: int | None = None) -> None:
        found = len(places) if count is None else count
        self.findings.append(Finding(level, check, message, found, tuple(places[:_SHOWN])))


def check(
    train: Sequence[Example],
    held_out: Sequence[Example] = (),
    *,
    measure: Measure | None = None,
    context_tokens: int | None = None,
) -> Report:
    """Look at training examples, and at held-out ones beside them.

    :param measure: counts tokens (see `token_lengths`); without it lengths are not looked at.
    :param context_tokens: of prompt and answer together.
    """
    report = Report()
    _count(report, train, held_out)
    _lengths(report, train, measure, context_tokens)
    _duplicates(report, train)
    for level, message, places, number in leakage.leaks(train, held_out):
        report.add(level, "leakage", message, places, number)
    _answers(report, train)
    _languages(report, train)
    _sensitive(report, [*train, *held_out])
    report.findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return report


def _level(count: int, total: int) -> Level:
    return "error" if count > TOLERATED * total else "warning"


def _count(report: Report, train: Sequence[Example], held_out: Sequence[Example]) -> None:
    per_document = Counter(example.document for example in train)
    none = [example for example in train if not example.answers]
    report.figures |= {
        "examples": len(train),
        "held_out_examples": len(held_out),
        "documents": len(per_document),
        "unanswerable": len(none),
        "synthetic": sum(example.synthetic for example in train),
        "conversations": sum(bool(example.turns) for example in train),
        "passages_per_prompt": round(statistics.fmean(len(example.passages) for example in train), 2) if train else 0,
    }
    report.series["examples_per_document"] = list(per_document.values())
    if not train:
        report.add("error", "size", "there are no examples to train on")
    elif len(train) == 1:
        report.add("error", "size", "there is one example: nothing can be learned from it, and nothing held out")
    elif len(train) < FEW_EXAMPLES:
        report.add(
            "warning",
            "size",
            f"{len(train)} examples are few: a learning curve should say whether they change anything",
        )
    if len(train) > 1 and len(per_document) == 1:
        report.add(
            "error", "size", 'all examples are of one document: sets are split by document, so name them in "document"'
        )
    if none and len(none) == len(train):
        report.add("error", "answers", "no example has an answer: a model would learn to refuse all questions")
    elif len(none) > len(train) / 2:
        report.add(
            "warning", "answers", f"{len(none)} of {len(train)} examples have no answer: a model may refuse too much"
        )
    elif train and not none and any(example.passages for example in train):
        report.add("info", "answers", "every question has an answer: a model learns nowhere to say that there is none")


def _lengths(report: Report, train: Sequence[Example], measure: Measure | None, context_tokens: int | None) -> None:
    if measure is None or context_tokens is None:
        report.add("info", "length", "token lengths were not looked at: name --bundle or --tokenizer")
        return
    lengths = measure([sample(example) for example in train])
    totals = [length.total for length in lengths]
    report.series["total_tokens"] = totals
    report.figures |= {
        "context_tokens": context_tokens,
        "total_tokens": percentiles(totals),
        "completion_tokens": percentiles([length.completion for length in lengths]),
    }
    long = [
        f"{place_of(example)}: {length.total} tokens"
        for example, length in zip(train, lengths, strict=True)
        if length.total > context_tokens
    ]
    if long:
        message = f"{len(long)} examples are longer than the context of {context_tokens} tokens: shorten their passages"
        report.add(_level(len(long), len(train)), "length", message, long)
    late = [
        f"{place_of(example)}: {length.completion} tokens"
        for example, length in zip(train, lengths, strict=True)
        if length.completion > ANSWER_TOKENS
    ]
    if late:
        report.add(
            "warning",
            "length",
            f"{len(late)} answers are longer than the {ANSWER_TOKENS} tokens of answer.max_tokens",
            late,
        )


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """Least, median, 90th, 99th percentile and most: each a value that occurs."""
    ordered = sorted(values)
    if not ordered:
        return {}
    shares = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(int(share * len(ordered)), len(ordered) - 1)] for name, share in shares.items()}


def _duplicates(report: Report, train: Sequence[Example]) -> None:
    """Question and passages together twice are a duplicate; a question alone may well stand with several passages."""
    whole: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in train:
        whole[leakage.shown(example), normal(example.question)].append(example)
    repeated = [group for group in whole.values() if len(group) > 1]
    near = list(_near_questions(train))
    report.figures |= {
        "distinct_questions": len({normal(example.question) for example in train}),
        "duplicates": sum(len(group) - 1 for group in repeated),
        "near_duplicates": sum(len(group) - 1 for group in near),
    }
    if repeated:
        count = report.figures["duplicates"]
        places = [" = ".join(place_of(one) for one in group[:3]) for group in repeated]
        report.add("warning", "duplicates", f"{count} examples repeat another's question and passages", places, count)
    if near:
        count = report.figures["near_duplicates"]
        places = [" ~ ".join(repr(one.question) for one in group[:2]) for group in near]
        message = f"{count} questions differ little from another on their passages"
        report.add("info", "duplicates", message, places, count)
    _near_contexts(report, train)


def _near_questions(train: Sequence[Example]) -> Iterator[list[Example]]:
    """Groups of nearly the same questions on the same passages, one example of each wording."""
    wordings: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        wordings[normal(example.question)].append(example)
    for group in groups([example.question for example in train]).near:
        by_passages: dict[str, dict[str, Example]] = defaultdict(dict)
        for at in group:
            wording = normal(train[at].question)
            for example in wordings[wording]:
                by_passages[leakage.shown(example)].setdefault(wording, example)
        yield from (list(members.values()) for members in by_passages.values() if len(members) > 1)


def _near_contexts(report: Report, train: Sequence[Example]) -> None:
    owner = {leakage.shown(example): example for example in reversed(train)}
    contexts = [text for text in owner if text]
    found = groups(contexts)
    close = [[owner[contexts[at]] for at in group] for group in (*found.exact, *found.near)]
    apart = [group for group in close if len({example.document for example in group}) > 1]
    report.figures |= {
        "contexts": len(contexts),
        "near_duplicate_contexts": sum(len(group) - 1 for group in close),
    }
    if apart:
        places = [" ~ ".join(f"{place_of(one)} ({one.document})" for one in group[:3]) for group in apart]
        message = f"{len(apart)} groups of documents share nearly the same passages: keep each on one side of a split"
        report.add("warning", "duplicates", message, places)


def _answers(report: Report, train: Sequence[Example]) -> None:
    answered = [example for example in train if example.answers]
    report.series["answer_words"] = [len(example.answers[0].split()) for example in answered]
    if conflict := answers.conflicts(train):
        message = f"{len(conflict)} questions on the same passages have answers that contradict each other"
        report.add(_level(len(conflict), len(train)), "conflicts", message, conflict)
    if empty := [place_of(example) for example in answered if not normal(example.answers[0])]:
        report.add("error", "answers", f"{len(empty)} answers hold no word", empty)
    if cut := [f"{place_of(example)}: {why}" for example in answered if (why := answers.cut_off(example))]:
        report.add("warning", "answers", f"{len(cut)} answers look cut off", cut)
    common = Counter(normal(example.answers[0]) for example in answered).most_common(1)
    if common and len(answered) > 1:
        text, count = common[0]
        if count == len(answered):
            report.add("error", "answers", f"all answers are alike ({_short(text)}): nothing is learned from passages")
        elif count > len(answered) / 2:
            report.add("warning", "answers", f"{count} of {len(answered)} answers are {_short(text)}", count=count)
    _support(report, [example for example in answered if example.passages])


def _support(report: Report, grounded: Sequence[Example]) -> None:
    kinds = [answers.support(example) for example in grounded]
    report.figures["answers_verbatim"] = kinds.count("verbatim")
    report.figures["answers_in_other_words"] = kinds.count("words")
    pairs = zip(grounded, kinds, strict=True)
    if bad := [f"{place_of(one)}: {_short(one.answers[0])}" for one, kind in pairs if kind == "none"]:
        message = f"{len(bad)} answers are not supported by their passages: a model learns to make things up"
        report.add("warning", "support", message, bad)


def _languages(report: Report, train: Sequence[Example]) -> None:
    """Languages by question and passage together, of evenly drawn examples: a question alone is too short to tell."""
    from edge.ingest.language import detect

    drawn = train[:: max(1, len(train) // _LANGUAGE_SAMPLE)]
    counts = Counter(detect(f"{one.question}\n{leakage.shown(one)[:_LANGUAGE_CHARACTERS]}") for one in drawn)
    most = counts.most_common()
    shares = {code: round(n / len(drawn), 3) for code, n in most if n >= _LEAST_LANGUAGE * len(drawn)}
    report.figures["languages"] = shares
    if len(shares) > 1:
        listed = ", ".join(f"{code} {share:.0%}" for code, share in list(shares.items())[:6])
        report.add("info", "languages", f"the examples are in {len(shares)} languages: {listed}")


def _sensitive(report: Report, examples: Sequence[Example]) -> None:
    secrets: list[str] = []
    emails: list[str] = []
    seen: set[tuple[str, str]] = set()
    for example, found in _found(examples):
        if (example.document, found.masked) not in seen:
            seen.add((example.document, found.masked))
            (secrets if found.kind == "secret" else emails).append(f"{place_of(example)}: {found.what} {found.masked}")
    if secrets:
        report.add(
            "error", "secrets", f"{len(secrets)} secrets: remove them, and have their owners revoke them", secrets
        )
    if emails:
        report.add("warning", "emails", f"{len(emails)} e-mail addresses: may a model learn and say them?", emails)


def _found(examples: Sequence[Example]) -> Iterator[tuple[Example, Sensitive]]:
    known: dict[str, list[Sensitive]] = {}
    for example in examples:
        for text in (example.question, *example.answers, *leakage.texts_of(example)):
            if text not in known:
                known[text] = list(find(text))
            for found in known[text]:
                yield example, found


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
