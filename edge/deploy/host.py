"""What an installation asks of the machine it runs on."""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.bundle import MODEL_CONFIG, Bundle, Manifest
from edge.config import EdgeConfig, load
from edge.deploy.probe import Probe
from edge.deploy.table import CONFIG, INDEX
from edge.errors import DeployError, EdgeError
from edge.files import cache
from edge.machine import cores

if TYPE_CHECKING:
    from edge.deploy.trial import Trial

_PREPARE_SEC = 2000.0  # that packing and comparing the weights may take
_PREPARING_FACTOR = 2  # of the weights: room that packing them takes while it is done
TARGETS = ("cpu",)


@dataclass(frozen=True, slots=True)
class Smoke:
    """What the trial of a bundle measured."""

    prepared: bool  # whether its weights are packed for this CPU
    load_sec: float
    answer_sec: tuple[float, ...]  # of each question
    private_peak_bytes: int  # of the process and its children
    notes: tuple[str, ...] = ()


class Host(Protocol):
    """The machine, as tests may make one up."""

    machine: str  # as `uname -m` calls it
    targets: tuple[str, ...]

    def now(self) -> float:
        """Its clock, seconds since 1970."""

    def free_bytes(self, path: Path) -> int:
        """Room on the disk that `path` is on."""

    def prepared_bytes(self, root: Path, manifest: Manifest, digest: str) -> int:
        """Room that packing the weights for this CPU will take on the disk that `root` is on."""

    def admit(self, manifest: Manifest, digest: str, model_config: bytes) -> None:
        """Whether a bundle may be loaded here.

        :raises BudgetExceeded: its memory does not hold the bundle with a context of use.
        """

    def smoke(self, bundle: Bundle, probe: Probe, folder: Path) -> Smoke:
        """Try out a bundle in a process of its own; `folder` is the release it is part of.

        :raises EdgeError: it does not load, does not answer, or not within the bounds of the probe.
        """

    def has_prepared(self, digest: str) -> bool:
        """Whether there is a copy of a bundle packed for this CPU."""

    def forget(self, digest: str) -> None:
        """Remove that copy."""

    def index_note(self, index: Path, manifest: Manifest) -> str | None:
        """What to do where an index does not fit a bundle."""


class ThisHost:
    """The machine that this runs on.

    :param config: of the box; None: `config.yaml` in its folder, else in the archive, else the defaults.
    """

    def __init__(self, root: Path, config: Path | None = None, memory_budget: str | None = None) -> None:
        self.machine: str = platform.machine()
        self.targets: tuple[str, ...] = TARGETS
        self._root, self._config, self._memory_budget = root, config, memory_budget

    def now(self) -> float:
        return time.time()

    def free_bytes(self, path: Path) -> int:
        return shutil.disk_usage(path).free

    def prepared_bytes(self, root: Path, manifest: Manifest, digest: str) -> int:
        if self.has_prepared(digest) or not self._settings(None).engine.prepare:
            return 0
        there = next(path for path in (cache().absolute(), *cache().absolute().parents) if path.exists())
        same_disk = there.stat().st_dev == root.stat().st_dev
        return _PREPARING_FACTOR * manifest.memory.weights_bytes if same_disk else 0

    def admit(self, manifest: Manifest, digest: str, model_config: bytes) -> None:
        from edge.budget import Use, fit
        from edge.engine import prepared
        from edge.footprint import budget_of, parts_of

        config = self._settings(None)
        with tempfile.TemporaryDirectory() as scratch:  # the ledger reads one small file of the bundle
            model = Path(scratch, manifest.model.path)
            model.mkdir(parents=True, exist_ok=True)
            (model / MODEL_CONFIG).write_bytes(model_config)
            bundle = Bundle(Path(scratch), manifest, digest)
            copy = prepared.folder_of(bundle, cache()) if config.engine.prepare else None
            parts = parts_of(bundle, config, threads=config.threads or cores(), prepared=copy, serves=True)
        context = min(config.answer.context_tokens, manifest.model.context_tokens)
        fit(parts, budget_of(config.memory_budget), Use(context))

    def smoke(self, bundle: Bundle, probe: Probe, folder: Path) -> Smoke:
        from edge.deploy.trial import Trial

        config = self._settings(folder / CONFIG)
        return run_trial(Trial(os.getpid(), bundle.path.absolute(), folder / f".{INDEX}", config, probe))

    def has_prepared(self, digest: str) -> bool:
        return (cache() / "prepared" / digest).exists()

    def forget(self, digest: str) -> None:
        shutil.rmtree(cache() / "prepared" / digest, ignore_errors=True)

    def index_note(self, index: Path, manifest: Manifest) -> str | None:
        from edge.store.chunks import Store

        try:
            with Store.open(index) as store:
                embedder = store.identity.embedder
        except EdgeError as error:
            return str(error)
        if embedder != manifest.embedder.fingerprint:
            return f"{index} was made with another embedder than this release's: run `edge index rebuild`"
        return None

    @property
    def settings(self) -> EdgeConfig:
        """The box's configuration."""
        return self._settings(None)

    def _settings(self, packed: Path | None) -> EdgeConfig:
        own = self._config or self._root / CONFIG
        paths = [path for path in (own, packed) if path is not None and path.exists()]
        if self._config is not None:
            paths = [self._config]
        config = load(EdgeConfig, paths[0]) if paths else EdgeConfig()
        budget = self._memory_budget
        return config if budget is None else dataclasses.replace(config, memory_budget=budget)


def run_trial(trial: Trial) -> Smoke:
    """Try out a bundle in a process that has ended when this returns.

    :raises EdgeError: see `Host.smoke`.
    """
    probe = trial.probe
    limit_sec = _PREPARE_SEC + probe.load_sec + 60 + len(probe.questions) * 2 * probe.answer_sec
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge.deploy.trial"],
            input=pickle.dumps(trial),
            capture_output=True,
            timeout=limit_sec,
            check=False,
            process_group=0,  # Ctrl-C is for this process, which then ends that one
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise DeployError(f"the bundle could not be tried out: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise DeployError(f"the process that tried the bundle out ended: {said[-1] if said else done.returncode}")
    answer: Smoke | EdgeError = pickle.loads(done.stdout)
    if isinstance(answer, EdgeError):
        raise answer
    return answer
