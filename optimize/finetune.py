"""Parent and samples -> adapter: the stage, around the process that trains (optimize/training/).

Checkpoints stand in `<cache>/training/<key>`, beside the stage's folder and not in it: a killed build removes that one.
The same command goes on from them; a finished stage removes them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.config import to_plain, to_yaml
from edge.errors import BuildError, UsageError
from edge.files import cache, write_atomic
from optimize import child, dataset, disk, lora_olive
from optimize.dataset import examples
from optimize.dataset.examples import Example, Sample
from optimize.finetune_recipe import DataRecipe, FineTuneRecipe
from optimize.stages import Stage, code, digest_of, run_stage, tools
from optimize.training import adapter, checkpoint, encode, loop, model, pack, run
from optimize.training.loop import Report

TOOLS = ("torch", "transformers", "peft", "safetensors", "tokenizers")
ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "finetune.json"
"""What the adapter was trained on and from: read by optimize/merge.py."""
_INTERRUPT_SEC = 120.0

Watch = Callable[[Report], None]
"""Called after each step."""


def read_examples(data: DataRecipe) -> tuple[Sequence[Example], Sequence[Example]]:
    """Examples to train on and held-out ones.

    :raises DatasetError: a file is missing or malformed, or is not what was split.
    :raises UsageError: a document stands on both sides, so that the held-out loss would say nothing.
    """
    if data.split:
        made = dataset.read_split(data.split, dataset.read_all(data.train))
        return made.train, made.held_out
    train = dataset.read_all(data.train)
    held_out = dataset.read_all(data.held_out) if data.held_out else []
    if both := {one.document for one in train} & {one.document for one in held_out}:
        some = ", ".join(sorted(both)[:3])
        raise UsageError(
            f"{len(both)} documents are in both finetune.data.train and finetune.data.held_out ({some}): split by "
            "document, so that what is held out was never seen"
        )
    return train, held_out


def read_samples(data: DataRecipe) -> tuple[list[Sample], list[Sample]]:
    """The same as `edge ask` would show them to the model; raises what `read_examples` raises."""
    train, held_out = read_examples(data)
    return [examples.sample(one) for one in train], [examples.sample(one) for one in held_out]


def finetune(
    parent: Stage,
    base_id: str,
    recipe: FineTuneRecipe,
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    watch: Watch | None = None,
    stage: Callable[..., Stage] = run_stage,
) -> Stage:
    """The adapter of `recipe`: ADAPTER, CONFIG, CARD, losses.json and, with the extra `bench`, losses.svg.

    :param parent: a Hugging Face folder in fp32.
    :param base_id: what the base is called; the adapter names it.
    :param watch: called after each step.
    :param stage: `run_stage`, or what wraps it.
    :raises BuildError: the training broke down, was interrupted, or the disk is full; says what to do.
    """
    shown = to_plain(recipe)
    del shown["data"]  # paths of this machine; what they hold is in the digests
    reads = {
        "parent": parent.digest,
        "base": base_id,
        "recipe": shown,
        "train": _digest(train),
        "held_out": _digest(held_out),
        "tools": tools(*TOOLS, *(lora_olive.TOOLS if recipe.trainer == "olive" else ())),
        "code": code(run, loop, pack, encode, model, adapter, lora_olive),
    }
    key = digest_of(reads)[:32]
    work = cache() / "training" / key

    def build(out: Path) -> None:
        if recipe.trainer == "olive":
            left_out = lora_olive.train(parent.path, base_id, recipe, train, work, out, f"finetune-{key[:12]}")
            dtype = lora_olive.dtype(recipe)
        else:
            job = _job(parent.path, base_id, recipe, train, held_out, work, out)
            left_out, dtype = _train(job, work, f"finetune-{key[:12]}", watch)
        card = {
            "base": {"id": base_id, "weights_sha256": weights_digest(parent.path)},
            "recipe": shown,
            "dtype": dtype,  # what finetune.dtype: auto came to
            "samples": {"train": len(train), "held_out": len(held_out), "left_out": left_out},
            "data_sha256": {"train": reads["train"], "held_out": reads["held_out"]},
        }
        write_atomic(out / CARD, json.dumps(card, indent=2) + "\n")

    made = stage("adapter", reads, build)
    shutil.rmtree(work, ignore_errors=True)
    return made


def weights_digest(folder: Path) -> str:
    """sha256 over the names, shapes and bytes of model.safetensors, whatever order or metadata the file has."""
    path = folder / "model.safetensors"
    total = hashlib.sha256()
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items()):
            start, end = entry["data_offsets"]
            total.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            stream.seek(8 + length + start)
            left = end - start
            while left:
                piece = stream.read(min(left, 2**22))
                if not piece:
                    raise BuildError(f"{path}: cut short; remove {folder} and build again")
                total.update(piece)
                left -= len(piece)
    return total.hexdigest()


def _job(
    parent: Path,
    base_id: str,
    recipe: FineTuneRecipe,
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    work: Path,
    out: Path,
) -> dict[str, Any]:
    """What optimize/training/run.py reads."""
    return {
        "parent": str(parent),
        "base_id": base_id,
        "recipe": to_yaml(recipe),
        "train": [_plain(sample) for sample in train],
        "held_out": [_plain(sample) for sample in held_out],
        "work": str(work),
        "out": str(out),
    }


def _train(job: dict[str, Any], work: Path, log_name: str, watch: Watch | None) -> tuple[list[str], str]:
    """Run the trainer; its steps go to `watch`. The ids of samples that were too long, and what matrix products were
    computed in. An interrupt lets it write a checkpoint first."""
    work.mkdir(parents=True, exist_ok=True)
    with disk.explained(work):
        write_atomic(work / "job.json", json.dumps(job))
    log = child.log_file(log_name)
    command = child.command("optimize.training.run", [str(work / "job.json")])
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=child.environment(work / ".scratch"),
            text=True,
            start_new_session=True,  # a Ctrl-C of the terminal reaches this process, which hands it on once
        ) as process,
    ):
        try:
            told = _follow(process, watch)
            returncode = process.wait()
        except BaseException as error:
            _end(process)
            if isinstance(error, KeyboardInterrupt) and (work / checkpoint.NAME).is_file():
                raise BuildError(f"interrupted; the same command goes on from the checkpoint in {work}") from error
            raise
    if "error" in told:
        raise BuildError(told["error"])
    if returncode == run.STOPPED:
        raise BuildError(f"interrupted; the same command goes on from the checkpoint in {work}")
    if returncode != 0:
        raise child.failure("Training", log, returncode)
    return told.get("left_out", []), told["dtype"]


def _follow(process: subprocess.Popen[str], watch: Watch | None) -> dict[str, Any]:
    """Pass the trainer's steps on until it ends; what else it told: see optimize/training/run.py."""
    told: dict[str, Any] = {}
    assert process.stdout is not None  # a pipe was asked for
    for line in process.stdout:
        message = json.loads(line)
        if watch and "step" in message:
            watch(Report(**message.pop("step")))
        told |= message
    return told


def _end(process: subprocess.Popen[str]) -> None:
    """Let the trainer write its checkpoint; end it if that takes too long, or if it is interrupted once more."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(_INTERRUPT_SEC)
    process.kill()


def _plain(sample: Sample) -> dict[str, Any]:
    return {**asdict(sample), "prompt": [[turn.role, turn.content] for turn in sample.prompt]}


def _digest(samples: Sequence[Sample]) -> str:
    return digest_of([_plain(sample) for sample in samples])
