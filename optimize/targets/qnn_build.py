"""The work of target qnn: graphs for onnxruntime-genai made, compiled and run by the environment of `qnn.lock`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic
from edge.machine import cores
from optimize import child, environments, export
from optimize.targets import qnn_rows
from optimize.targets.qnn_recipe import QnnRecipe

ENVIRONMENT = "qnn"
COMPILED = ("context", "iterator")
ASSIGNED = "assigned.json"
BESIDE = ("tokenizer.json", "tokenizer_config.json", export.CHAT_TEMPLATE)
SHAPING = (
    "chunk_tokens", "context_tokens", "per_channel", "rotate", "head_block_size", "activations", "calibration_tokens",
)  # fmt: skip
"""Keys of the recipe that decide the graphs."""
_PARTS = ("embeddings", *COMPILED, "lm_head")


def build_graphs(parent: Path, model: Path, recipe: QnnRecipe, out: Path, log_name: str) -> None:
    """Write the graphs, which run on any CPU, into `out`: a folder for onnxruntime-genai.

    :param model: the CPU form, whose tokenizer, chat template and genai_config.json both forms share.
    :raises BuildError: Olive failed; names the log.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    write_atomic(scratch / "rows.json", json.dumps(qnn_rows.calibration(parent, recipe.calibration_tokens)))
    job = {
        "step": "build",
        "parent": str(parent),
        "rows": str(scratch / "rows.json"),
        **{key: getattr(recipe, key) for key in SHAPING},
    }
    built = Path(_run(job, "Building the graphs for the NPU", scratch, log_name)["folder"])
    for name in _PARTS:
        if not (built / f"{name}.onnx").is_file():
            raise BuildError(f"Olive wrote no {name}.onnx; this kind of model is not supported for the NPU")
    for path in sorted(built.iterdir()):
        if path.name.endswith((".onnx", ".onnx.data")):
            shutil.copyfile(path, out / path.name)
    for name in BESIDE:
        shutil.copyfile(model / name, out / name)
    config = json.loads((built / "genai_config.json").read_text(encoding="utf-8"))
    of_cpu = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))
    write_atomic(out / "genai_config.json", _dump(settled(config, of_cpu, recipe, unused_token(model))))
    shutil.rmtree(scratch)


def settled(config: dict[str, Any], of_cpu: dict[str, Any], recipe: QnnRecipe, pad: int) -> dict[str, Any]:
    """genai_config.json of the pipeline, with lengths and ends of an answer as the recipe and the CPU form have them.

    :param pad: fills the last chunk of a prompt. The library takes the first of these in a prompt for its end, so it
        must be a token that no prompt holds: not the end of a turn, which many models name as theirs.
    """
    model = config["model"]
    for key in ("bos_token_id", "eos_token_id"):
        model[key] = of_cpu["model"][key]
    model["pad_token_id"] = pad
    model["context_length"] = config["search"]["max_length"] = recipe.context_tokens
    return config


def unused_token(model: Path) -> int:
    """The id of a token that stands in no prompt: a control token that the chat template does not write.

    Control tokens that a document or a question holds are made harmless, see `special_tokens` in the manifest.

    :raises BuildError: the tokenizer has none.
    """
    config = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))["model"]
    ends = config["eos_token_id"]
    taken = {*(ends if isinstance(ends, list) else [ends]), config.get("bos_token_id")}
    template = (model / export.CHAT_TEMPLATE).read_text(encoding="utf-8")
    added = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    for token in reversed(added):
        if token["special"] and token["id"] not in taken and token["content"] not in template:
            return int(token["id"])
    raise BuildError("target qnn fills up chunks of a prompt with a control token that no prompt holds; this has none")


def compile_graphs(graphs: Path, recipe: QnnRecipe, soc: str, out: Path, log_name: str) -> None:
    """Write the folder with `context` and `iterator` compiled for one chip into `out`; ASSIGNED says what was taken.

    :raises BuildError: the compiler failed; names the log.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    counts = {}
    config = json.loads((graphs / "genai_config.json").read_text(encoding="utf-8"))
    for name in COMPILED:
        job = {
            "step": "compile",
            "graph": str(graphs / f"{name}.onnx"),
            "compiled": str(out / f"{name}.onnx"),
            "options": options(recipe, soc),
        }
        counts[name] = _run(job, f"Compiling {name} for chip {soc}", scratch, f"{log_name}-{name}")
    for name in ("embeddings.onnx", "lm_head.onnx", *BESIDE):
        shutil.copyfile(graphs / name, out / name)
    for stage in _stages(config):
        for name in stage.keys() & set(COMPILED):
            stage[name]["session_options"] = {"provider_options": [{"qnn": options(recipe, soc)}]}
    write_atomic(out / "genai_config.json", _dump(config))
    write_atomic(out / ASSIGNED, _dump(counts))
    shutil.rmtree(scratch)


def simulate(folder: Path, tokens: Any, told: dict[str, str], scratch: Path, log_name: str) -> Any:
    """Logits of a compiled folder in the simulator of the NPU, float32 (windows, time, vocabulary), mapped.

    :param tokens: int64 (windows, time); a chunk of 64 takes some 40 s with a model of 135 million parameters.
    :raises BuildError: it failed; a simulator that ran out of memory was killed.
    """
    import numpy as np

    from optimize.targets import qnn_runner

    scratch.mkdir(exist_ok=True)
    np.save(scratch / "windows.npy", tokens)
    job = {
        "step": "logits",
        "folder": str(folder),
        "windows": str(scratch / "windows.npy"),
        "options": told,
        "threads": cores(),
    }
    _run(job, "Running the graphs in the simulator of the NPU", scratch, log_name)
    return np.load(scratch / qnn_runner.LOGITS, mmap_mode="r")


def options(recipe: QnnRecipe, soc: str) -> dict[str, str]:
    """The provider's options, when compiling and when running."""
    return {"soc_model": soc, **recipe.provider_options}


def _run(job: dict[str, Any], what: str, scratch: Path, log_name: str) -> dict[str, Any]:
    from optimize.targets import qnn_runner

    file = scratch / "job.json"
    write_atomic(file, json.dumps({**job, "scratch": str(scratch)}, indent=2))
    python = environments.interpreter(ENVIRONMENT)
    child.run("optimize.targets.qnn_runner", [str(file)], what, log_name, scratch, python=python)
    result: dict[str, Any] = json.loads((scratch / qnn_runner.RESULT).read_text(encoding="utf-8"))
    return result


def _stages(config: dict[str, Any]) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = config["model"]["decoder"]["pipeline"]
    return stages


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
