"""Files of questions and answers to `Example`s.

Three kinds of files are read, told by their ending: JSONL (one object a line), SQuAD (JSON) and CSV. Whatever is wrong
with a file is said with its lines before anything is done with the rest: nothing is skipped silently.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge.errors import DatasetError
from optimize.dataset.examples import Example, Shown
from optimize.dataset.rows import KEYS, Malformed, example_of, id_of, mapping, name_of, words

SHOWN_ERRORS = 10
_DELIMITERS = (",", ";", "\t")


def read_all(paths: Iterable[Path]) -> list[Example]:
    """The examples of several files, in order.

    :raises DatasetError: see `read`; or two examples have the same id.
    """
    found = [example for path in paths for example in read(path)]
    first: dict[str, str] = {}
    for example in found:
        if example.id in first:
            raise DatasetError(
                f"{first[example.id]} and {example.origin} have the same id {example.id!r}: name each file once, and "
                "give each example an id of its own"
            )
        first[example.id] = example.origin
    return found


def read(path: Path) -> list[Example]:
    """The examples of one file: .jsonl, .json (SQuAD 1.1 and 2.0, https://arxiv.org/abs/1806.03822) or .csv/.tsv.

    A line of JSONL is `{"question", "context", "answer", "document", "id"}`: `context` is a text or a list of
    `{"heading", "text"}`, best first; `answer` a text or a list of accepted ones, or null where the context holds none,
    which `"unanswerable": true` confirms. Or it is `{"messages": [{"role", "content"}, ...]}`, the last one the
    assistant's. A line that says `"review": "drop"` is left out; one that says `"review": "pending"` is an error.

    :raises DatasetError: the file is missing, empty, no UTF-8, of another kind, or holds malformed lines: names up to
        ten of them.
    """
    readers: dict[str, Callable[[str, Path], Iterator[_Row]]] = {
        ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _squad, ".csv": _csv, ".tsv": _csv,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: unknown kind of file {path.suffix!r}: give .jsonl, .json (SQuAD) or .csv")
    examples: list[Example] = []
    wrong: list[str] = []
    rows = 0
    lines: dict[str, str] = {}
    for place, row in reader(_text(path), path):
        rows += 1
        try:
            example = row if isinstance(row, Example) else example_of(mapping(row), place, path)
            if example is None:
                continue
            _check_characters(example)
            if example.id in lines:
                raise Malformed(f"the id {example.id!r} stands at {lines[example.id]} too")
        except Malformed as error:
            wrong.append(f"{place}: {error}")
            continue
        lines[example.id] = place
        examples.append(example)
    if wrong:
        raise DatasetError(_listed(path, wrong))
    if not rows:
        raise DatasetError(f"{path}: holds no examples: each line should hold {KEYS}")
    return examples


_Row = tuple[str, "Example | Any"]  # where it stands; an example, or what is to become one


def _check_characters(example: Example) -> None:
    """JSON can escape half of a character, which no tokenizer takes."""
    shown = [part for passage in example.passages for part in (passage.heading, passage.text)]
    texts = (example.id, example.document, example.question, *example.answers, *shown)
    try:
        "".join((*texts, *(turn.content for turn in example.turns))).encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"holds half of a character, \\u{ord(error.object[error.start]):04x}") from None


def _listed(path: Path, wrong: Sequence[str]) -> str:
    more = f"\n  and {len(wrong) - SHOWN_ERRORS} more" if len(wrong) > SHOWN_ERRORS else ""
    shown = "\n  ".join(wrong[:SHOWN_ERRORS])
    return f"{path}: {len(wrong)} malformed; correct or remove them:\n  {shown}{more}"


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DatasetError(f"{path}: is a folder; name the files in it") from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: is not UTF-8 text (byte {error.start}): convert it, for example with iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    if not text.strip():
        raise DatasetError(f"{path}: is empty: each line should hold {KEYS}")
    return text


# JSONL


def _json_lines(text: str, path: Path) -> Iterator[_Row]:
    # Not splitlines: JSON strings may hold U+2028 and others that it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield f"{path}:{number}", Malformed(f"not JSON: {error}")


# CSV


def _csv(text: str, path: Path) -> Iterator[_Row]:
    head = text.split("\n", 1)[0]
    for delimiter in _DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter))]
        if {"question", "answer"} <= set(names):
            break
    else:
        raise DatasetError(f"{path}:1: the first line must name the columns, question and answer among them: {head!r}")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(lines)
    number = lines.line_num + 1
    try:
        for values in lines:
            place, number = f"{path}:{number}", lines.line_num + 1
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(names):
                yield place, Malformed(f"{len(values)} columns, and the first line names {len(names)}")
                continue
            yield place, _from_csv(dict(zip(names, values, strict=True)))
    except csv.Error as error:
        yield f"{path}:{lines.line_num}", Malformed(f"not CSV: {error}")


def _from_csv(row: dict[str, str]) -> dict[str, Any] | Malformed:
    """A row with the types of a line of JSONL: an empty cell is one that is not there."""
    found: dict[str, Any] = {key: value for key, value in row.items() if value.strip()}
    if "context" in found:
        found["context"] = [{"heading": found.pop("heading", ""), "text": found["context"]}]
    for key in ("unanswerable", "synthetic"):
        if key in found:
            word = found[key].strip().lower()
            if word not in ("true", "false", "1", "0", "yes", "no"):
                return Malformed(f"{key} is {word!r}; it must be true or false")
            found[key] = word in ("true", "1", "yes")
    found.pop("support", None)
    return found


# SQuAD


def _squad(text: str, path: Path) -> Iterator[_Row]:
    try:
        data = json.loads(text)["data"]
        articles = list(data)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DatasetError(
            f'{path}: is not in SQuAD format ({{"data": [{{"title", "paragraphs": [...]}}]}}); where each line is an '
            "object of its own, name the file .jsonl"
        ) from None
    for at, article in enumerate(articles):
        for below, paragraph in enumerate(_list_of(article, "paragraphs")):
            place = f"{path}:data[{at}].paragraphs[{below}]"
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            if not isinstance(context, str) or not context.strip():
                yield place, Malformed('"context" is missing or empty')
                continue
            title = article.get("title")
            shown = Shown(title.replace("_", " ").strip() if isinstance(title, str) else "", context)
            for last, entry in enumerate(_list_of(paragraph, "qas")):
                yield f"{place}.qas[{last}]", _squad_question(entry, shown, f"{place}.qas[{last}]", path)


def _squad_question(entry: Any, shown: Shown, place: str, path: Path) -> Example | Malformed:
    try:
        question = words(mapping(entry), "question")
        answers = tuple(
            dict.fromkeys(
                one["text"].strip()
                for one in _list_of(entry, "answers")
                if isinstance(one, dict) and isinstance(one.get("text"), str) and one["text"].strip()
            )
        )
        impossible = entry.get("is_impossible", False)
        if impossible is True:
            answers = ()  # SQuAD 2.0 lists plausible wrong ones elsewhere
        elif not answers:
            raise Malformed('no answer, and "is_impossible" is not true')
        document = shown.heading or name_of(question, (shown,), 1)
        return Example(
            id=id_of(entry.get("id"), f"{path.stem}:{place.partition(':')[2]}"),
            document=document,
            question=question,
            passages=(shown,),
            answers=answers,
            support=1 if answers else None,
            origin=place,
        )
    except Malformed as error:
        return error


def _list_of(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
