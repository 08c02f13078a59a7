"""What a target is: the contract between `optimize.pipeline` and the modules of `optimize.targets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edge.bundle_targets import TargetEntry
    from optimize.build import Build
    from optimize.recipe import Recipe
    from optimize.stages import Stage


@dataclass(frozen=True)
class Made:
    """A further form of the model, ready to be packed."""

    stage: Stage  # its files go into the bundle below `entry.path`, but for those in `apart`
    entry: TargetEntry
    gate: dict[str, Any]  # what was compared with the CPU form, with its thresholds; the manifest's gate[entry.path]
    apart: frozenset[str] = frozenset()  # files of the stage that stay on the workstation


class Target(Protocol):
    """One target; a module of this package holds one as `TARGET`."""

    name: str

    def check(self, recipe: Recipe) -> None:
        """Refuse at once, before any work, what the recipe asks for and this target cannot give.

        :raises ConfigError: a section is missing or does not fit.
        :raises BuildError: a package is missing; says which to install, and how.
        """

    def make(self, build: Build, parent: Stage, model: Stage) -> tuple[Made, ...]:
        """Build the further forms, in stages of `build`, and compare each with the CPU form.

        :param parent: the fp32 Hugging Face folder, tuned where the recipe tunes.
        :param model: the CPU form, a folder for onnxruntime-genai; the bundle's `model/`.
        :raises BuildError: a stage failed.
        :raises GateError: it lost too much.
        """

    def tools(self) -> dict[str, str]:
        """Further packages -> versions that decided the result, for the manifest."""
