"""Run by test_architectures.py: makes tiny models and builds each as the recipes say, all in one process.

python -m tests.optimize.build_tiny FOLDER RECIPES.json NAME...

writes FOLDER/NAME/parent and FOLDER/NAME/<recipe> for each of them.

What differs from the real path is that the builder is called here, through the door's own adapter, and not by Olive:
starting Olive takes longer than building a tiny model.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from optimize import child, export, olive_runner, quantize
from optimize.recipe import ModelRecipe
from tests.optimize import tiny_models


def main(folder: Path, recipes: dict[str, dict[str, Any]], names: list[str]) -> None:
    child.die_with_parent()
    child.quiet()
    import onnxruntime_genai.models.builder as builder

    create_model = olive_runner.adapted(builder)

    def build(model: dict[str, Any], passes: dict[str, Any], scratch: Path, log_name: str, data: object = None) -> Path:
        options = passes["build"]
        out = scratch / "built"
        create_model(
            "", model["model_path"], str(out), options["precision"], "cpu", str(scratch / "hf"),
            **options["extra_options"],
        )  # fmt: skip
        return out

    quantize.run_workflow = build
    for name in names:
        source, parent = folder / name / "source", folder / name / "parent"
        source.mkdir(parents=True)
        parent.mkdir()
        export._main(tiny_models.make(name, source), parent)
        for recipe, keys in recipes.items():
            model, out = ModelRecipe(**keys), folder / name / recipe
            is_tied = json.loads((parent / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
            if model.shared_embeddings and not is_tied:
                continue
            quantize.check_fits(parent, model)
            scales = _calibrated(parent, model, out.with_suffix(".scales")) if model.kv_cache == "int8" else None
            out.mkdir()
            quantize.build_model(parent, model, out, recipe, scales)


def _calibrated(parent: Path, model: ModelRecipe, folder: Path) -> Path:
    """The ranges of keys and values, measured with a float32 cache."""
    plain = folder / "plain"
    plain.mkdir(parents=True)
    quantize.build_model(parent, quantize.calibration_recipe(model), plain, "plain")
    quantize.calibrate_kv_cache(plain, parent, folder, f"kv-{parent.parent.name}")
    return folder / "scales.json"


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3:])
