"""Heavy steps run in a process of their own: logged to a file, without telemetry, and ended when this one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from edge.errors import BuildError
from edge.files import cache

_QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OLIVE_DISABLE_TELEMETRY": "1",
    "CI": "1",  # Olive queues a heartbeat before it reads its own switch; in CI it does not
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers heeds it too
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 12


def quiet() -> None:
    """Switch off telemetry and progress bars for libraries that this process imports from here on."""
    os.environ.update(_QUIET)


def run(
    module: str, arguments: list[str], what: str, log_name: str, scratch: Path, *, python: Path | None = None
) -> Path:
    """Run `python -m module arguments`; its output goes to `<cache>/logs/<log_name>.log`, whose path is returned.

    :param what: names the step in the error.
    :param scratch: caches of the libraries go below it, and nothing outside is written.
    :param python: of another environment (`optimize.environments`).
    :raises BuildError: it failed; names the log and shows its last lines.
    """
    log = log_file(log_name)
    with log.open("wb") as stream:
        done = subprocess.run(
            command(module, arguments, python),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment(scratch),
            check=False,
        )
    if done.returncode != 0:
        raise failure(what, log, done.returncode)
    return log


def log_file(log_name: str) -> Path:
    """`<cache>/logs/<log_name>.log`; its folder exists."""
    log = cache() / "logs" / f"{log_name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return log


def command(module: str, arguments: list[str], python: Path | None = None) -> list[str]:
    """What starts a child."""
    return [str(python or sys.executable), "-m", module, *arguments]


def environment(scratch: Path) -> dict[str, str]:
    """A child's environment: quiet, offline, caches of the libraries below `scratch`."""
    root = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        **_QUIET,
        **_OFFLINE,  # what a step needs was fetched before, and checked
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_CACHE": str(scratch / "hf" / "hub"),
        "PYTHONPATH": root if not inherited else f"{root}{os.pathsep}{inherited}",
    }


def failure(what: str, log: Path, returncode: int) -> BuildError:
    """The error for a failed child: why, the log's path, its last lines."""
    text = log.read_text(encoding="utf-8", errors="replace")
    tail = [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
    if returncode < 0:
        why = f"was killed by {signal.Signals(-returncode).name}"
        if returncode == -signal.SIGKILL:
            why += " (often: the machine ran out of memory)"
    elif "No space left on device" in text:
        why = "found the disk full"
    else:
        why = f"failed with exit code {returncode}"
    return BuildError("\n".join([f"{what} {why}. Its log is {log}; the last lines:", *(f"  {line}" for line in tail)]))


def die_with_parent() -> None:
    """Called by a child: if the build is killed, this process must not go on writing into its folder (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
