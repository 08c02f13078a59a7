"""What a search tries: named changes to a recipe's section `model`, and how good a pick must be."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edge
from edge.config import load, parse, to_plain, to_yaml
from edge.errors import ConfigError, UsageError
from optimize.recipe import ModelRecipe

REFERENCE = "fp32"
"""The build of the same model that candidates are compared with."""

STORED = ("precision", "block_size", "algorithm", "mixed_precision", "symmetric", "kv_cache")
"""Keys that are a candidate's own: what it leaves out is ModelRecipe's default. All others are the recipe's."""


@dataclass(frozen=True)
class SpeedRecipe:
    """How rates are measured: whole rounds through all candidates, each in a fresh process."""

    rounds: int = 5
    prompt_tokens: int = 256
    new_tokens: int = 128

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.prompt_tokens < 1 or self.new_tokens < 8:
            raise ValueError("rounds and prompt_tokens must be 1 or more, new_tokens 8 or more")


@dataclass(frozen=True)
class SearchRecipe:
    """See configs/search/default.yaml."""

    candidates: dict[str, dict[str, Any]]  # name -> keys of ModelRecipe
    max_f1_loss: float = 0.01  # of F1, 0..1, against the fp32 build
    min_questions: int = 500  # with an answer, below which nothing is picked
    gate_tokens: int = 10_240  # positions that the KL divergence is taken over, at least
    test_share: float = 0.5  # of the held-out documents that only the pick is confirmed on
    seed: int = 0  # of that division
    speed: SpeedRecipe = SpeedRecipe()

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("candidates must name at least one")
        if REFERENCE in self.candidates:
            raise ValueError(f"candidates: the name {REFERENCE} is taken by the build that all are compared with")
        for name in ("max_f1_loss", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1")
        if self.min_questions < 2 or self.gate_tokens < 1:
            raise ValueError("min_questions must be 2 or more, gate_tokens 1 or more")


def load_search(path: Path | None = None) -> SearchRecipe:
    """Read what to try from a YAML file; None: from the one that comes with the project.

    :raises ConfigError: there is no such file, or it does not fit; names file and line.
    """
    shipped = Path(edge.__file__).resolve().parent / "configs" / "search" / "default.yaml"
    return load(SearchRecipe, path or shipped)


def expand(
    candidates: Mapping[str, Mapping[str, Any]], model: ModelRecipe, only: Collection[str] = ()
) -> dict[str, ModelRecipe]:
    """Name -> the whole section `model` of every candidate, in the order given.

    :param model: of the recipe; gives all keys but `STORED`.
    :param only: names; none: all.
    :raises ConfigError: a candidate has an unknown key or a wrong value, or is the same as another.
    :raises UsageError: `only` names one that does not exist.
    """
    if unknown := sorted(set(only) - set(candidates)):
        raise UsageError(f"no candidate is called {', '.join(unknown)}; there are {', '.join(candidates)}")
    expanded: dict[str, ModelRecipe] = {}
    seen = {to_yaml(reference(model)): REFERENCE}
    for name, changes in candidates.items():
        made = _changed(name, changes, model)
        if (same := seen.setdefault(to_yaml(made), name)) != name:
            raise ConfigError(f"candidates {same!r} and {name!r} are the same build: remove one")
        if not only or name in only:
            expanded[name] = made
    return expanded


def reference(model: ModelRecipe) -> ModelRecipe:
    """The fp32 build of the same model."""
    return _changed(REFERENCE, {"precision": "fp32"}, model)


def _changed(name: str, changes: Mapping[str, Any], model: ModelRecipe) -> ModelRecipe:
    known = [spec.name for spec in dataclasses.fields(ModelRecipe)]
    if unknown := sorted(set(changes) - set(known)):
        raise ConfigError(f"candidate {name!r}: unknown key {', '.join(unknown)}; known here: {', '.join(known)}")
    kept = {key: value for key, value in to_plain(model).items() if key not in STORED}
    where = f"candidate {name!r}"
    try:
        return parse(ModelRecipe, to_yaml(kept | dict(changes)), where)
    except ConfigError as error:  # its line is of no file
        raise ConfigError(f"{where}: {str(error).split(': ', 1)[-1]}") from None
