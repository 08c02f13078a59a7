"""A conversation: each follow-up question is rewritten to stand alone, then answered like any other.

A 135M model rewrites well at times and badly at others, so its rewrite is only a proposal: it is taken when it keeps
the words of the follow-up and adds none that the conversation did not hold. Otherwise the earlier question is put
behind the follow-up, which serves retrieval nearly as well; before it, a tuned model would answer that again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.engine.base import Engine, Message, Sampling
from edge.lexical import query
from edge.prompt import defuse
from edge.types import Hit

_REWRITE = "Rewrite the last question so that it can be understood alone. Write only the question."
_EXAMPLES = (
    ("Who built the pump house in Moss?", "When was that?", "When was the pump house in Moss built?"),
    ("How often is the oil filter changed?", "And the air filter?", "How often is the air filter changed?"),
)
_JOINED_WORDS = 30  # of the earlier question, so that a long conversation does not pile up
_KEPT_SHARE = 0.5  # of the follow-up's content terms that a rewrite must keep


@dataclass(frozen=True, slots=True)
class Turn:
    question: str  # as it was understood, standing alone
    answer: str


def stand_alone(
    question: str,
    history: Sequence[Turn],
    *,
    engine: Engine,
    retrieve: Callable[[str], Sequence[Hit]],
    special_tokens: Sequence[str] = (),
) -> str:
    """The question as it is to be retrieved and answered: itself, where it already finds what it asks for.

    Rewrites compete with the question as it stands: the one whose best hit is most relevant is taken, and of equals the
    one that changes least.
    """
    if not history:
        return question
    candidates = [question]
    rewritten = _rewrite(question, history[-1], engine, special_tokens)
    if _keeps(rewritten, question, history[-1]):
        candidates.append(rewritten)
    candidates.append(" ".join([question, *history[-1].question.split()[:_JOINED_WORDS]]))
    return max(candidates, key=lambda candidate: _best_relevance(retrieve(candidate)) - 0.05 * (candidate != question))


def _rewrite(question: str, last: Turn, engine: Engine, special_tokens: Sequence[str]) -> str:
    messages = [Message("system", _REWRITE)]
    for first, follow_up, whole in _EXAMPLES:
        messages += [Message("user", f"{first}\n{follow_up}"), Message("assistant", whole)]
    messages.append(Message("user", f"{defuse(last.question, special_tokens)}\n{defuse(question, special_tokens)}"))
    token_ids = engine.encode(engine.render(messages))
    session = engine.start(token_ids, Sampling(max_tokens=48))
    return "".join(token.text for token in session).strip().split("\n")[0]


def _keeps(rewritten: str, question: str, last: Turn) -> bool:
    """Whether a rewrite is made of the conversation's own words, most of the follow-up's among them."""
    new, asked = set(query(rewritten, "en").terms), set(query(question, "en").terms)
    known = asked | set(query(f"{last.question} {last.answer}", "en").terms)
    return bool(new) and new <= known and len(new & asked) >= _KEPT_SHARE * len(asked)


def _best_relevance(hits: Sequence[Hit]) -> float:
    return max((hit.relevance or 0.0 for hit in hits), default=0.0)
