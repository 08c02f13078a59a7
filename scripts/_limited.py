"""What `measure_limit.py` runs inside the limit: the longest question, then a prompt of the full context.

Prints one JSON object. With an argument, that many tokens of context at most.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from typing import Any

from edge.box import Box
from edge.engine.base import Sampling
from edge.errors import PromptTooLong
from edge.memory import PeakSampler, major_faults

QUESTION = "How long does the gateway keep its readings when the broker cannot be reached?"
WARM_TOKENS = 8  # before the steady state
PASSAGE_TOKENS = 340  # room for one


def main() -> None:
    notes: list[str] = []
    with (
        PeakSampler(os.getpid()) as sampler,
        Box.open(bundle=None, index=None, config=None, on_note=notes.append) as box,
    ):
        if len(sys.argv) > 1:
            context = dataclasses.replace(box.config.answer, context_tokens=int(sys.argv[1]))
            box.config = dataclasses.replace(box.config, answer=context)
        context_tokens = box.admit(last=True).use.context_tokens
        asked = _longest_question(box, context_tokens)
        result = _full_context(box, context_tokens)
    result |= {"asked_prompt_tokens": asked, "context_tokens": context_tokens, "notes": notes}
    print(json.dumps(result | {"private_peak_bytes": sampler.private_peak_bytes}))


def _longest_question(box: Box, context_tokens: int) -> int:
    """Ask a question that fills the context but for one passage; returns the tokens of its prompt."""
    words = (QUESTION + " ") * (context_tokens // 10)
    room = context_tokens - box.config.answer.max_tokens - PASSAGE_TOKENS - 60
    while len(box.engine.encode(words)) > room:
        words = words[: len(words) * 19 // 20]
    box.engine.close()  # as `edge ask` begins: nothing is loaded
    answer = box.ask(words, last=True)
    return answer.stats.prompt_tokens


def _full_context(box: Box, context_tokens: int) -> dict[str, Any]:
    """Fill the context to the token; rates and page faults of the tokens after the first few."""
    max_tokens = box.config.answer.max_tokens
    token_ids = box.engine.encode((QUESTION + " ") * context_tokens)[: context_tokens - max_tokens]
    try:
        session = box.engine.start(token_ids, Sampling(max_tokens))
    except PromptTooLong as error:
        raise SystemExit(str(error)) from None
    marks: list[tuple[float, int]] = []
    for _ in session:
        marks.append((time.perf_counter(), major_faults(os.getpid())))
    steady = marks[WARM_TOKENS:]
    if len(steady) < WARM_TOKENS:
        raise SystemExit(f"the model wrote only {len(marks)} tokens: too few to measure")
    tokens = len(steady) - 1
    return {
        "prompt_tokens": session.stats.prompt_tokens,
        "completion_tokens": len(marks),
        "decode_tok_per_sec": round(tokens / (steady[-1][0] - steady[0][0]), 2),
        "major_faults_per_token": round((steady[-1][1] - steady[0][1]) / tokens, 3),
    }


if __name__ == "__main__":
    main()
