"""How fast a model reads and writes: one load in a process of its own, on real text, a fixed number of tokens.

python -m optimize.search.speed FOLDER PROMPT_TOKENS NEW_TOKENS RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from edge import machine
from edge.files import write_atomic
from optimize import child, evaluate


def measure(folder: Path, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
    """`prefill_tok_per_sec`, `decode_tok_per_sec` (of the tokens after the first) and `rss_peak_bytes`.

    On all cores this process may use, greedy; an end of turn is not heeded, so that all write the same number of
    tokens. Done twice: the first time warms up.
    """
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": machine.cores()}}}}))
    model = og.Model(config)
    prompt = og.Tokenizer(model).encode(evaluate.gate_text())[:prompt_tokens]
    length = prompt_tokens + new_tokens
    began = first = ended = 0.0
    for _ in range(2):
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        began = time.perf_counter()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        ended = time.perf_counter()
        del generator
    return {
        "prefill_tok_per_sec": prompt_tokens / (first - began),
        "decode_tok_per_sec": (new_tokens - 1) / (ended - first),
        "rss_peak_bytes": machine.rss_peak_bytes(),
    }


def _main(folder: Path, prompt_tokens: int, new_tokens: int, result: Path) -> None:
    child.die_with_parent()
    child.quiet()
    write_atomic(result, json.dumps(measure(folder, prompt_tokens, new_tokens)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
