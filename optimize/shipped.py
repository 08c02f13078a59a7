"""The recipes that come with the project. Needs none of the extra's packages, so that a bare install can list them."""

from __future__ import annotations

from pathlib import Path

import edge

DEFAULT = "cpu-int8"
"""The shipped recipe that `edge optimize run` takes when none is named; docs/decisions.md says why."""


def shipped() -> dict[str, Path]:
    """Name -> file of every shipped recipe.

    `edge/configs` is a link to the folder `configs` in a checkout, and that folder itself in an installed wheel.
    """
    folder = Path(edge.__file__).resolve().parent / "configs" / "optimize"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
