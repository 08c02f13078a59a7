"""The CPU: what the straight path builds is all there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimize.build import Build
    from optimize.recipe import Recipe
    from optimize.stages import Stage
    from optimize.targets.base import Made


class Cpu:
    name = "cpu"

    def check(self, recipe: Recipe) -> None:
        """Any recipe fits: `optimize.quantize.check_fits` looks at the model."""

    def make(self, build: Build, parent: Stage, model: Stage) -> tuple[Made, ...]:
        return ()

    def tools(self) -> dict[str, str]:
        return {}


TARGET = Cpu()
