"""Adapters that stay separate: a build with inputs for them, and each as an `.onnx_adapter` file, chosen per request.

What merging gets by construction is checked here: an adapter is for this base, brings what every layer needs, and its
keys and values fit the int8 KV cache, whose ranges were measured without it. Everything is checked before a file is
written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge import bundle
from edge.errors import BuildError
from edge.files import sha256_file, write_atomic
from optimize import adapter_file, adapter_graph, disk, merge, quantize
from optimize.adapter_file import Adapter, check, check_inputs, export, exported, packed, shapes
from optimize.adapter_graph import Site
from optimize.finetune import ADAPTER, weights_digest
from optimize.stages import Stage, code, tools

if TYPE_CHECKING:
    from optimize.build import Build
    from optimize.recipe import AdapterRecipe

TOOLS = ("onnxruntime", "onnxruntime-genai", "onnx", "safetensors", "torch")
FOLDER, SUFFIX, RECORD = "adapters", ".onnx_adapter", "adapters.json"
"""Below a stage's folder: the files, and what the bundle's manifest says of them."""
MAX_KV_RATIO = 1.5
"""How far an adapter's keys and values may reach beyond the range of a channel of the int8 KV cache: range with the
adapter / range without, both taken as the calibration takes them. What is beyond gets cut off. One that was trained on
all projections for 420 steps, rank 16, reaches 1.20."""


def stage(build: Build, parent: Stage, model: Stage, calibrated: tuple[Stage, Stage] | None) -> Stage:
    """The build with inputs for the recipe's adapters, the adapters beside it, as a stage.

    :param parent: what was built, in fp32.
    :param calibrated: for an int8 KV cache, the build with a float32 one, and the ranges measured with it.
    :raises BuildError: an adapter does not fit; see `check` and `check_kv_ranges`.
    """
    recipe = build.recipe
    folders = {name: merge.check_source(source) for name, source in recipe.adapters.items()}
    reads = {
        "parent": parent.digest,
        "model": model.digest,
        "calibrated": [one.digest for one in calibrated or ()],
        "base": recipe.base.id,
        "adapters": {
            name: {
                "answers": source.answers,
                "languages": source.languages,
                **{file: _sha256(folders[name] / file) for file in merge.READS},
            }
            for name, source in recipe.adapters.items()
        },
        "tools": tools(*TOOLS),
        "code": code(adapter_file, adapter_graph, quantize) + sha256_file(Path(__file__)),
    }

    def work(out: Path) -> None:
        found = [check(name, folder, parent.path, recipe.base.id) for name, folder in folders.items()]
        scales = (calibrated[0].path, calibrated[1].path / "scales.json") if calibrated else None
        add(found, recipe.adapters, parent.path, model.path, scales, out)

    return build.stage("adapters", reads, work, needed_bytes=2 * sum(_size(model.path / name) for name in model.files))


def add(
    adapters: list[Adapter],
    recipes: Mapping[str, AdapterRecipe],
    parent: Path,
    model: Path,
    calibrated: tuple[Path, Path] | None,
    out: Path,
) -> None:
    """Write the build in `model` with inputs for `adapters`, their files and adapters.json into `out`.

    :param calibrated: the build with a float32 KV cache, and scales.json, where the build's is int8.
    :raises BuildError: an adapter does not fit the build.
    """
    base = shapes(parent / "model.safetensors")
    kinds = set[str]().union(*(adapter.kinds for adapter in adapters))
    with disk.explained(out):
        for file in model.iterdir():
            if file.is_file() and file.name in quantize.KEPT:
                shutil.copyfile(file, out / file.name)
    found = adapter_graph.sites(out, base, kinds)
    adapter_graph.add_inputs(out, found)
    inputs = adapter_graph.input_shapes(out)
    for adapter in adapters:  # all of them, before the first is written
        check_inputs(adapter, packed(adapter, found), inputs)
    if calibrated:
        for adapter in adapters:
            check_kv_ranges(adapter, found, parent, *calibrated, out / ".scratch")
    (out / FOLDER).mkdir()
    entries, digest = [], weights_digest(parent)
    for adapter in adapters:
        path = out / FOLDER / f"{adapter.name}{SUFFIX}"
        with disk.explained(out):
            export(packed(adapter, found), path)
        check_inputs(adapter, exported(path), inputs)
        entries.append(
            {
                "name": adapter.name,
                "path": f"{FOLDER}/{path.name}",
                "sha256": sha256_file(path),
                "bytes": _size(path),
                "rank": adapter.rank,
                "base_sha256": digest,
                "answers": recipes[adapter.name].answers,
                "languages": list(recipes[adapter.name].languages),
            }
        )
    write_atomic(out / RECORD, json.dumps(entries, indent=2) + "\n")


def entries(folder: Path, below: str) -> tuple[bundle.AdapterEntry, ...]:
    """What the manifest of a bundle says of the adapters beside a build.

    :param folder: a stage's.
    :param below: where the build is in the bundle.
    """
    if not (folder / RECORD).is_file():
        return ()
    found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return tuple(
        bundle.AdapterEntry(
            **{**entry, "path": f"{below}/{entry['path']}", "languages": tuple(entry.get("languages", ()))}
        )
        for entry in found
    )


def check_kv_ranges(
    adapter: Adapter, found: list[Site], parent: Path, model: Path, scales: Path, scratch: Path
) -> float:
    """Check that the int8 KV cache holds the adapter's keys and values; return the largest ratio of their ranges.

    The calibration is run again, the adapter on, over the same text and in the same way.

    :param model: the build with a float32 KV cache that `scales` was measured with, without inputs for adapters.
    :raises BuildError: a range is more than `MAX_KV_RATIO` times that of the cache; says where.
    """
    import numpy as np

    shutil.rmtree(scratch, ignore_errors=True)
    always = scratch / adapter.name
    always.mkdir(parents=True)
    with disk.explained(scratch):
        for name in quantize.KEPT:
            shutil.copyfile(model / name, always / name)  # the runtime follows no links to weights
    adapter_graph.add_inputs(always, found)
    adapter_graph.fill(always, packed(adapter, found))
    measured = scratch / "scales"
    measured.mkdir()
    quantize.calibrate_kv_cache(always, parent, measured, f"kv-scales-{sha256_file(adapter.folder / ADAPTER)[:12]}")
    without, of_adapter = (json.loads(path.read_text(encoding="utf-8")) for path in (scales, measured / "scales.json"))
    worst = 0.0
    for kind, word in (("k_scales", "keys"), ("v_scales", "values")):
        ratios = np.array(of_adapter["scales"][kind]) / np.array(without["scales"][kind])  # (layers, channels)
        if not (ratios <= MAX_KV_RATIO).all():
            layer, channel = np.unravel_index(np.argmax(ratios), ratios.shape)
            beyond = int((ratios > MAX_KV_RATIO).sum())
            raise BuildError(
                f"adapter {adapter.name}: its {word} reach {ratios.max():.2f} times the range that the int8 KV cache "
                f"was calibrated to (layer {layer}, channel {channel}; {beyond} of {ratios.size} channels are above "
                f"{MAX_KV_RATIO}), and what is beyond would be cut off. Set model.kv_cache: float32, or train the "
                "adapter without k_proj and v_proj"
            )
        worst = max(worst, float(ratios.max()))
    shutil.rmtree(scratch)
    return worst


def _sha256(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _size(path: Path) -> int:
    return path.stat().st_size
