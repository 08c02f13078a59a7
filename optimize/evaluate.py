"""The quality gate: how far is a build from its fp32 parent?

Text shipped in optimize/data/gate is cut into windows and read by both models.

- Perplexity of both, and the mean KL divergence KL(parent || build) of the next-token distribution: Kullback and
  Leibler 1951, natural logarithm. Both over every position of every window but the last.
- Accuracy of both: the share of positions at which the token found most likely is the one that follows.
- Top-1 agreement: the share of positions at which both find the same token most likely.
- Greedy agreement: both continue prompts by 32 tokens; the share of them before the first difference. The build runs in
  onnxruntime-genai, the runtime that ships; the parent in PyTorch.

A build may give logits for the last tokens only, so the teacher-forced part runs its graph in plain
onnxruntime with the nodes that cut them bypassed, in memory: same file of weights, same kernels, nothing written.

The parent's result is kept as hidden states before the LM head (float32, tokens x hidden: 24 MB), from which
`optimize.projection` gives back its logits, which would take 2 GB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.config import to_plain
from edge.errors import BuildError, GateError
from edge.files import write_atomic
from edge.machine import cores
from optimize import head, projection
from optimize.head import GRAPH
from optimize.recipe import GateRecipe

TOOLS = ("torch", "transformers", "onnxruntime", "onnxruntime-genai", "onnx", "tokenizers", "numpy")
TEXT = Path(__file__).parent / "data" / "gate"
GREEDY_TOKENS = 32
_PROMPT_TOKENS = 64
_ROWS = 128  # positions whose distributions are held at once: 4 x rows x vocabulary x 4 bytes, 100 MB


@dataclass(frozen=True)
class GateResult:
    tokens: int  # positions compared
    parent_perplexity: float
    perplexity: float
    perplexity_ratio: float
    kl_nats: float
    top1_agreement: float
    greedy_agreement: float
    greedy_prompts: int
    parent_accuracy: float  # share of positions whose most likely token is the one that follows
    accuracy: float  # the same of the build


def gate_text(folder: Path = TEXT) -> str:
    """The text that builds are compared on.

    :raises BuildError: the installation has none.
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise BuildError(f"{folder}: no text to compare the build on; install edge-slm again")
    return "\n\n".join(path.read_text(encoding="utf-8") for path in files)


def read_parent(parent: Path, recipe: GateRecipe, text: str, out: Path) -> None:
    """Run the fp32 parent and write what `compare` needs into `out`.

    Files: tokens.npy int64 (windows, window_tokens); hidden.npy float32 (windows, window_tokens, hidden);
    prompts.npy int64 (prompts, 64); greedy.npy int64 (prompts, 32); and those of `projection.save`.

    :raises BuildError: the text is shorter than the recipe asks for, or the logits are made in a way that is not known.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(cores())
    windows, prompts = _cut(_tokenize(parent, text), recipe)
    model: Any = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    model.eval()
    end = projection.of_model(model)
    hidden = np.lib.format.open_memmap(
        out / "hidden.npy", mode="w+", dtype=np.float32, shape=(*windows.shape, end.table.shape[1])
    )
    with torch.inference_mode():
        for index, window in enumerate(torch.from_numpy(windows)):
            states = model.base_model(window[None], use_cache=False).last_hidden_state[0]
            if index == 0:
                projection.check(end, states, model(window[None], use_cache=False).logits[0])
            hidden[index] = states.numpy()
        greedy = _greedy_parent(model, torch.from_numpy(prompts))
    hidden.flush()
    projection.save(end, out)
    for name, array in (("tokens", windows), ("prompts", prompts), ("greedy", greedy)):
        np.save(out / f"{name}.npy", array)


def compare(build: Path, reference: Path) -> GateResult:
    """Compare the model in `build` with what `read_parent` wrote into `reference`.

    :raises BuildError: the build cannot be loaded or run.
    """
    import numpy as np

    windows = np.load(reference / "tokens.npy")
    totals = dict.fromkeys(("kl", "parent", "build", "same", "parent_right", "build_right"), 0.0)
    logits = teacher_forced(build)
    for parent_rows, build_rows, targets in _rows(reference, windows, logits):
        for key, value in distances(parent_rows, build_rows, targets).items():
            totals[key] += value
    count = windows.shape[0] * (windows.shape[1] - 1)
    prompts, wanted = np.load(reference / "prompts.npy"), np.load(reference / "greedy.npy")
    parent_perplexity, perplexity = math.exp(totals["parent"] / count), math.exp(totals["build"] / count)
    return GateResult(
        tokens=count,
        parent_perplexity=_rounded(parent_perplexity),
        perplexity=_rounded(perplexity),
        perplexity_ratio=_rounded(perplexity / parent_perplexity),
        kl_nats=_rounded(totals["kl"] / count),
        top1_agreement=_rounded(totals["same"] / count),
        greedy_agreement=_rounded(_greedy_agreement(build, prompts, wanted)),
        greedy_prompts=len(prompts),
        parent_accuracy=_rounded(totals["parent_right"] / count),
        accuracy=_rounded(totals["build_right"] / count),
    )


def accuracy(reference: Path) -> float:
    """Share of positions whose most likely token is the one that follows, of the model that `read_parent` ran."""
    import numpy as np
    import torch

    windows, states = (np.load(reference / f"{name}.npy") for name in ("tokens", "hidden"))
    end, right = projection.load(reference), 0
    for window, hidden in zip(windows, states, strict=True):
        for start in range(0, len(window) - 1, _ROWS):
            stop = min(start + _ROWS, len(window) - 1)
            chosen = end.logits(torch.from_numpy(hidden[start:stop])).argmax(dim=1).numpy()
            right += int((chosen == window[start + 1 : stop + 1]).sum())
    return right / int(windows.shape[0] * (windows.shape[1] - 1))


def judge(result: GateResult, recipe: GateRecipe) -> dict[str, Any]:
    """The result with its thresholds, as the manifest keeps it.

    :raises GateError: a threshold is missed; the message is the whole table.
    """
    checks = (
        ("kl_nats", result.kl_nats, "<=", recipe.max_kl_nats),
        ("perplexity_ratio", result.perplexity_ratio, "<=", recipe.max_perplexity_ratio),
        ("top1_agreement", result.top1_agreement, ">=", recipe.min_top1_agreement),
        ("greedy_agreement", result.greedy_agreement, ">=", recipe.min_greedy_agreement),
    )
    lines, failed = [], False
    for name, value, relation, limit in checks:
        passed = value <= limit if relation == "<=" else value >= limit
        failed |= not passed  # a NaN fails both
        lines.append(f"  {name:18} {value:<10.5g} must be {relation} {limit:<10.5g} {'ok' if passed else 'FAILED'}")
    if failed:
        head = f"the build lost too much against its fp32 parent (over {result.tokens} tokens); nothing was packaged"
        raise GateError("\n".join([head, *lines, "Take a finer recipe, or change the thresholds under `gate:` in it"]))
    return {**to_plain(result), "thresholds": {name: limit for name, _, _, limit in checks}}


def shape_of(recipe: GateRecipe) -> dict[str, int]:
    """The part of the recipe that decides what is measured; the thresholds decide nothing but the verdict."""
    return {"tokens": recipe.tokens, "window_tokens": recipe.window_tokens, "prompts": recipe.prompts}


def write_result(result: GateResult, out: Path) -> None:
    write_atomic(out / "gate.json", json.dumps(to_plain(result), indent=2) + "\n")


def read_result(folder: Path) -> GateResult:
    return GateResult(**json.loads((folder / "gate.json").read_text(encoding="utf-8")))


# The text


def _tokenize(parent: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(parent / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


def _cut(tokens: list[int], recipe: GateRecipe) -> tuple[Any, Any]:
    """Windows (n, window_tokens) with at least `recipe.tokens` positions, and prompts, both spread over the text."""
    import numpy as np

    size = recipe.window_tokens
    count = -(-recipe.tokens // (size - 1))
    if len(tokens) < count * size:
        raise BuildError(
            f"the text in {TEXT} has {len(tokens)} tokens of this model; "
            f"gate.tokens: {recipe.tokens} needs {count * size}"
        )
    text = np.array(tokens, dtype=np.int64)

    def spread(pieces: int, length: int) -> Any:
        starts = np.linspace(0, len(text) - length, pieces).astype(int)
        return np.stack([text[start : start + length] for start in starts])

    return spread(count, size), spread(recipe.prompts, _PROMPT_TOKENS)


# The parent


def _greedy_parent(model: Any, prompts: Any) -> Any:
    """Most likely continuation, int64 (prompts, 32); all prompts have the same length and go as one batch."""
    import numpy as np

    chosen, step, past = [], prompts, None
    for _ in range(GREEDY_TOKENS):
        output = model(step, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = output.past_key_values
        step = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        chosen.append(step.numpy())
    return np.concatenate(chosen, axis=1)


# The build


def teacher_forced(build: Path) -> Any:
    """A function: int64 (time,) -> logits float32 (time, vocabulary) of the build."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch works in between
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(build))
    try:
        session = ort.InferenceSession(
            head.whole_logits((build / GRAPH).read_bytes()), options, ["CPUExecutionProvider"]
        )
    except Exception as error:
        raise BuildError(f"onnxruntime cannot load the build: {error}") from error
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
    decoder = json.loads((build / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])  # a cache with nothing in it
    empty = {
        given.name: np.zeros(shape, types[given.type])
        for given in session.get_inputs()
        if given.name.startswith("past_key_values.")
    }
    names = {given.name for given in session.get_inputs()}

    def logits(tokens: Any) -> Any:
        feeds = {"input_ids": tokens[None], "attention_mask": np.ones((1, len(tokens)), np.int64), **empty}
        if "position_ids" in names:
            feeds["position_ids"] = np.arange(len(tokens), dtype=np.int64)[None]
        return session.run(["logits"], feeds)[0][0]

    return logits


def _greedy_agreement(build: Path, prompts: Any, wanted: Any) -> float:
    """Mean share of `wanted` (up to the parent's first end token) that the build says before the first difference."""
    import onnxruntime_genai as og

    config = og.Config(str(build))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": cores()}}}}))
    model = og.Model(config)
    ends = set(og.Tokenizer(model).eos_token_ids)
    shares = []
    for prompt, target in zip(prompts, wanted, strict=True):
        stop = next((index + 1 for index, token in enumerate(target) if int(token) in ends), len(target))
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + stop, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(prompt.astype("int32"))
        same = 0
        while same < stop:
            generator.generate_next_token()
            if int(generator.get_next_tokens()[0]) != int(target[same]):
                break
            same += 1
        shares.append(same / stop)
    return sum(shares) / len(shares)


# Comparing


def _rows(reference: Path, windows: Any, logits: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Logits of parent and build for a few positions at a time, with the tokens that really follow."""
    import numpy as np
    import torch

    torch.set_num_threads(cores())
    hidden, head = np.load(reference / "hidden.npy"), projection.load(reference)
    for window, states in zip(windows, hidden, strict=True):
        of_build = logits(window)
        for start in range(0, len(window) - 1, _ROWS):
            end = min(start + _ROWS, len(window) - 1)
            of_parent = head.logits(torch.from_numpy(states[start:end]))
            yield of_parent, torch.from_numpy(of_build[start:end]), torch.from_numpy(window[start + 1 : end + 1])


def distances(parent: Any, build: Any, targets: Any) -> dict[str, float]:
    """Sums over rows of KL(parent || build), both negative log likelihoods, equal argmaxes, argmaxes that are right.

    :param parent: logits, float32 tensor (rows, vocabulary); so is `build`.
    :param targets: the tokens that really follow, int64 tensor (rows,).
    """
    import torch

    logp, logq = torch.log_softmax(parent, dim=-1), torch.log_softmax(build, dim=-1)
    index = targets[:, None]
    of_parent, of_build = parent.argmax(dim=-1), build.argmax(dim=-1)
    return {
        "kl": float((logp.exp() * (logp - logq)).sum(dtype=torch.float64)),
        "parent": -float(logp.gather(1, index).sum(dtype=torch.float64)),
        "build": -float(logq.gather(1, index).sum(dtype=torch.float64)),
        "same": float((of_parent == of_build).sum()),
        "parent_right": float((of_parent == targets).sum()),
        "build_right": float((of_build == targets).sum()),
    }


def _rounded(value: float) -> float:
    """Four significant digits: more would differ between machines."""
    return float(f"{value:.4g}")
