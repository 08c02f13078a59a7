"""What differs between builds for a CPU and for an accelerator: a module for each target, found by its name.

The straight path (`optimize.pipeline`) builds the CPU form of the model whatever the target, because that is what a box
falls back to. A target adds further forms: `get("qnn").make(...)`. A module here is imported when a recipe names it.
"""

from __future__ import annotations

import importlib

from optimize.targets.base import Made, Target

TARGETS = ("cpu", "qnn", "openvino")
"""Names that `target:` of a recipe takes; each is a module here with a `TARGET`."""

__all__ = ["TARGETS", "Made", "Target", "get"]


def get(name: str) -> Target:
    """The target of that name.

    :raises KeyError: there is none.
    """
    if name not in TARGETS:
        raise KeyError(name)
    target: Target = importlib.import_module(f"optimize.targets.{name}").TARGET
    return target
