"""The shipped recipe of the default bundle, without its adapter: for builds from tiny models, which it does not fit."""

from __future__ import annotations

from dataclasses import replace

from optimize.recipe import Recipe, load_recipe


def untuned() -> Recipe:
    recipe: Recipe = replace(load_recipe("cpu-int8"), adapter=None, answers="free", languages=())
    return recipe
