"""`python -m edge.deploy.trial`: load a bundle as the box would, and let it answer the questions of its probe."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.config import EdgeConfig
from edge.deploy.host import Smoke
from edge.deploy.probe import Probe, ProbeQuestion
from edge.errors import DeployError, EdgeError
from edge.memory import PeakSampler
from edge.process import die_with
from edge.sizes import mib, parse_size

if TYPE_CHECKING:
    from edge.box import Box


@dataclass(frozen=True)
class Trial:
    """Everything that a trial works with."""

    parent: int  # process id
    bundle: Path
    index: Path  # need not exist: the questions go to the model alone
    config: EdgeConfig
    probe: Probe


def run(trial: Trial) -> Smoke:
    """Load, embed and ask, as a box does.

    :raises EdgeError: the bundle does not load, does not answer, or not within the bounds of the probe.
    """
    from edge.box import Box

    probe, notes = trial.probe, list[str]()
    answer = dataclasses.replace(trial.config.answer, max_tokens=probe.max_tokens)
    config = dataclasses.replace(trial.config, answer=answer)
    with Box(trial.bundle, trial.index, config, notes.append) as box:
        is_prepared = box.model_folder != box.bundle.path / box.bundle.manifest.model.path  # made here where it is not
        with PeakSampler(os.getpid()) as sampler:
            started = time.monotonic()
            box.admit()
            box.engine.load()
            load_sec = time.monotonic() - started
            _embeds(box)
            times = tuple(_asked(box, question, probe) for question in probe.questions)
    if load_sec > probe.load_sec:
        raise DeployError(f"the model took {load_sec:.1f} s to load; its probe allows {probe.load_sec:.1f} s")
    peak = sampler.private_peak_bytes
    if probe.memory is not None and peak > parse_size(probe.memory):
        raise DeployError(f"it took {mib(peak)} of private memory; its probe allows {mib(parse_size(probe.memory))}")
    return Smoke(is_prepared, load_sec, times, peak, tuple(notes))


def _embeds(box: Box) -> None:
    vector = box.embedder.embed_query("How long is the reset button held?")
    if not math.isclose(float((vector * vector).sum()), 1.0, abs_tol=1e-3):
        raise DeployError("its embedder gives vectors that are not of unit length: the bundle is broken")


def _asked(box: Box, question: ProbeQuestion, probe: Probe) -> float:
    """Seconds that an answer took."""
    started = time.monotonic()
    text = box.ask(question.question, mode="model").text
    seconds = time.monotonic() - started
    if not text.strip():
        raise DeployError(f"it gave no answer to the probe's question {question.question!r}")
    if question.contains and not any(part.lower() in text.lower() for part in question.contains):
        wanted = " or ".join(map(repr, question.contains))
        raise DeployError(f"to the probe's question {question.question!r} it answered {text!r}, without {wanted}")
    if seconds > probe.answer_sec:
        raise DeployError(f"an answer took {seconds:.1f} s; its probe allows {probe.answer_sec:.1f} s")
    return seconds


def main() -> None:
    """Run the trial on stdin."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the answer
    trial: Trial = pickle.loads(sys.stdin.buffer.read())
    die_with(trial.parent)
    answer: Smoke | EdgeError
    try:
        answer = run(trial)
    except EdgeError as error:
        answer = error
    with answers:
        pickle.dump(answer, answers)


if __name__ == "__main__":
    main()
