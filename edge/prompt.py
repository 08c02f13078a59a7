"""Hits and a token budget to a prompt (pure). The one definition of the text that the model reads, in training too.

Stable text comes first (the instruction), then the passages, then the question: two questions on the same passages
share a prefix that an engine may keep. Passages are packed whole, by rank; what is left out is reported, never cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from edge.engine.base import Message
from edge.errors import PromptTooLong, UsageError
from edge.types import Dropped, Hit, Passage, Prompt

GROUNDED = "Answer the question from the passages. Answer briefly, in the words of the passages."
CLOSED_BOOK = "Answer the question briefly."
NO_ANSWER = "The passages do not answer this."
"""What a tuned model says where they don't; edge.answer turns it into an abstention."""
_OWN_LINE = re.compile(r"^(?=\[\d+\]|Question:)", re.MULTILINE)
# Format characters that no script needs to be read: zero-width ones, bidirectional controls, tags, variation selectors.
_UNSEEN = re.compile("[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e0fff]")


class Tokenizer(Protocol):
    """What packing needs of an engine: the chat template and the token ids."""

    def render(self, messages: Sequence[Message]) -> str: ...

    def encode(self, text: str) -> list[int]: ...


def grounded_messages(question: str, passages: Sequence[tuple[int, str, str]]) -> list[Message]:
    """The conversation for an answer from passages, each `(marker, heading, text)`.

    A line of it that begins with a marker or with "Question:" is its own, whatever the passages hold.
    """
    shown = [
        f"[{marker}] {fenced(heading)}\n{fenced(text)}" if heading else f"[{marker}] {fenced(text)}"
        for marker, heading, text in passages
    ]
    return [Message("system", GROUNDED), Message("user", "\n\n".join([*shown, f"Question: {question}"]))]


def closed_book_messages(question: str) -> list[Message]:
    """The conversation for an answer from the model's own memory."""
    return [Message("system", CLOSED_BOOK), Message("user", question)]


def build(
    question: str,
    hits: Sequence[Hit],
    tokenizer: Tokenizer,
    *,
    budget_tokens: int,
    max_passages: int,
    special_tokens: Sequence[str] = (),
) -> Prompt:
    """Pack the hits, best first, into a prompt of at most `budget_tokens` tokens.

    :raises UsageError: the question is empty.
    :raises PromptTooLong: the question alone does not fit.
    """
    question = _checked(question, special_tokens)
    prompt = _render(question, [], tokenizer, special_tokens)
    _check_fits(prompt, budget_tokens)
    dropped: list[Dropped] = []
    for hit in hits:
        passages = [*prompt.passages, Passage(len(prompt.passages) + 1, hit)]
        if _repeats(hit, prompt.passages):
            dropped.append(_dropped(hit, tokenizer, "duplicate"))
            continue
        if len(passages) > max_passages:
            dropped.append(_dropped(hit, tokenizer, "limit"))
            continue
        candidate = _render(question, passages, tokenizer, special_tokens)
        if len(candidate.token_ids) > budget_tokens:
            dropped.append(_dropped(hit, tokenizer, "budget"))
            continue
        prompt = candidate
    return Prompt(prompt.text, prompt.token_ids, prompt.passages, tuple(dropped))


def build_closed_book(
    question: str, tokenizer: Tokenizer, *, budget_tokens: int, special_tokens: Sequence[str] = ()
) -> Prompt:
    """The prompt without passages.

    :raises UsageError: the question is empty.
    :raises PromptTooLong: it does not fit.
    """
    text = tokenizer.render(closed_book_messages(_checked(question, special_tokens)))
    prompt = Prompt(text, tuple(tokenizer.encode(text)), (), ())
    _check_fits(prompt, budget_tokens)
    return prompt


def defuse(text: str, special_tokens: Sequence[str]) -> str:
    """`text` with the model's control tokens broken up, so that a document cannot end the user's turn."""
    if not special_tokens:
        return text
    pattern = "|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True))
    return re.sub(pattern, lambda match: f"{match.group()[0]} {match.group()[1:]}", text)


def fenced(text: str) -> str:
    """A passage's text with a space before lines that could pass for the next passage, or for the question."""
    return _OWN_LINE.sub(" ", text)


def seen(text: str) -> str:
    """A document's text without what its readers do not see: they could not tell why an answer is as it is."""
    return _UNSEEN.sub("", text)


def heading_line(hit: Hit) -> str:
    """Where a passage stands: title and headings, as one line; a heading that repeats the one before is left out."""
    return heading_line_of(hit.title, hit.chunk.headings)


def heading_line_of(title: str, headings: Sequence[str]) -> str:
    """The same for a document's title and a chunk's headings."""
    return " > ".join(_without_repeats((title, *headings)))


def _without_repeats(names: Sequence[str]) -> Iterator[str]:
    previous = ""
    for name in names:
        if name and name != previous:
            yield name
        previous = name


def _checked(question: str, special_tokens: Sequence[str]) -> str:
    # Broken bytes of a command line and control characters are no text to the tokenizer: a NUL would end it.
    question = question.encode("utf-8", "replace").decode("utf-8")
    question = "".join(c if c.isprintable() or c.isspace() else " " for c in question).strip()
    if not question:
        raise UsageError("the question is empty: write it as the last argument")
    return defuse(question, special_tokens)


def _check_fits(prompt: Prompt, budget_tokens: int) -> None:
    excess = len(prompt.token_ids) - budget_tokens
    if excess > 0:
        raise PromptTooLong(
            f"the question takes {len(prompt.token_ids)} tokens and {budget_tokens} are left for the prompt: "
            f"shorten it by {excess} tokens, or raise answer.context_tokens"
        )


def _render(question: str, passages: Sequence[Passage], tokenizer: Tokenizer, special_tokens: Sequence[str]) -> Prompt:
    def safe(text: str) -> str:
        return defuse(seen(text), special_tokens)  # in this order: what is not seen may hide a token

    shown = [(p.marker, safe(heading_line(p.hit)), safe(p.hit.chunk.text)) for p in passages]
    text = tokenizer.render(grounded_messages(question, shown))
    return Prompt(text, tuple(tokenizer.encode(text)), tuple(passages), ())


def _repeats(hit: Hit, passages: Sequence[Passage]) -> bool:
    """Whether most of the hit's text is in the prompt already: the same text, or an overlapping span."""
    for passage in passages:
        other = passage.hit
        if other.chunk.text == hit.chunk.text:
            return True
        if "summary" in (other.chunk.kind, hit.chunk.kind):
            continue  # a summary spans its whole document and holds little of it
        shared = min(other.chunk.end, hit.chunk.end) - max(other.chunk.start, hit.chunk.start)
        if other.document == hit.document and shared * 2 > hit.chunk.end - hit.chunk.start:
            return True
    return False


def _dropped(hit: Hit, tokenizer: Tokenizer, reason: str) -> Dropped:
    tokens = len(tokenizer.encode(hit.chunk.text))
    return Dropped(hit.chunk_id, hit.document, hit.chunk.start, hit.chunk.end, tokens, reason)  # type: ignore[arg-type]
