"""Environments of their own for tools that cannot share this one: a lock file names them, a script makes them.

    python scripts/make_environment.py optimum        # once; pins: configs/optimize/optimum.lock

They are run as subprocesses with their own interpreter (`optimize.child.run(..., python=...)`), never imported.
"""

from __future__ import annotations

from pathlib import Path

import edge
from edge.errors import BuildError
from edge.files import cache, sha256_file

STAMP = "installed.lock"
"""A copy of the lock file in the finished environment: written last."""


def lock_file(name: str) -> Path:
    """The pinned packages of an environment, as pip reads them."""
    return Path(edge.__file__).resolve().parent / "configs" / "optimize" / f"{name}.lock"


def digest(name: str) -> str:
    """Hex sha256 of the lock file, which stands for the environment in what a stage read."""
    return sha256_file(lock_file(name))


def folder(name: str) -> Path:
    """Where the environment is, or will be: another lock file is another folder."""
    return cache() / "environments" / f"{name}-{digest(name)[:12]}"


def interpreter(name: str) -> Path:
    """The environment's Python.

    :raises BuildError: it has not been made from this lock file; says how.
    """
    place = folder(name)
    try:
        is_whole = (place / STAMP).read_bytes() == lock_file(name).read_bytes()
    except OSError:
        is_whole = False
    if not is_whole:
        raise BuildError(
            f"the environment {name!r} is not there: run `python scripts/make_environment.py {name}` in a checkout "
            f"once (it goes to {place})"
        )
    return place / "bin" / "python"
