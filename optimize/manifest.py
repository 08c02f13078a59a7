"""What a bundle says of itself and what it holds: finished stages to a manifest and its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import bundle
from edge.config import to_plain
from optimize import adapters, embedder, export, olive_runner, package, sources
from optimize.recipe import Recipe
from optimize.stages import Stage, digest_of, tools

if TYPE_CHECKING:
    from optimize.pipeline import Build


def pack(
    build: Build, model: Stage, embedder_stage: Stage, memory: bundle.Memory, gate: dict[str, Any], out: Path
) -> tuple[str, bool]:
    """Write finished stages as a bundle; see `optimize.package.write_bundle`."""
    manifest = _manifest(build, model, embedder_stage, memory, gate)
    return package.write_bundle(manifest, _parts(build.recipe, model, embedder_stage), out)


def _manifest(
    build: Build, model: Stage, embedder_stage: Stage, memory: bundle.Memory, gate: dict[str, Any]
) -> bundle.Manifest:
    recipe = build.recipe
    licences = sorted({recipe.base.licence, recipe.embedder.licence})
    return bundle.Manifest(
        schema=bundle.SCHEMA,
        name=recipe.name,
        version=recipe.version,
        target=recipe.target,
        licence=" AND ".join(licences),
        recipe=recipe.name,
        recipe_digest=recipe_digest(build),
        tools=tools(*sorted({*export.TOOLS, *olive_runner.TOOLS})),
        model=_model_section(recipe, model.path),
        embedder=embedder.section(recipe.embedder, embedder_stage.path, "embedder"),
        memory=memory,
        gate=gate,
    )


def _model_section(recipe: Recipe, folder: Path) -> bundle.ModelSection:
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    decoder, ends = config["decoder"], config["eos_token_id"]
    values = 2 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
    dtype = recipe.model.kv_cache
    shaping = to_plain(recipe.model)
    for key in ("precision", "context_tokens", "kv_cache"):
        del shaping[key]
    return bundle.ModelSection(
        path="model",
        base=bundle.BaseModel(
            id=recipe.base.id,
            source=sources.describe(recipe.base.source),
            sha256=sources.pinned(recipe.base.source),
            licence=recipe.base.licence,
        ),
        precision=recipe.model.precision,
        quantization=shaping,
        context_tokens=recipe.model.context_tokens,
        kv_cache=bundle.KvCache(dtype=dtype, bytes_per_token=values * {"float32": 4, "int8": 1}[dtype]),
        chat_template=f"model/{export.CHAT_TEMPLATE}",
        stop_tokens=tuple(ends) if isinstance(ends, list) else (ends,),
        special_tokens=_special_tokens(folder),
        answers=recipe.answers,
        languages=recipe.languages,
        adapters=adapters.entries(folder, "model"),
    )


def _special_tokens(folder: Path) -> tuple[str, ...]:
    """The tokens that steer the model, as written in text."""
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return tuple(token["content"] for token in added if token["special"])


def recipe_digest(build: Build) -> str:
    """sha256 over everything that decided the result: the recipe, and what each stage read."""
    recipe = to_plain(build.recipe)
    for section in ("base", "embedder"):
        recipe[section].pop("source")  # may hold a path of this machine; its bytes are in what the stages read
    for section, paths in (("finetune", "data"), ("adapter", "path")):
        if recipe[section]:
            recipe[section].pop(paths)
    for source in recipe["adapters"].values():
        source.pop("path")
    return digest_of({"recipe": recipe, "stages": [stage.key for stage in build.stages]})


def _parts(recipe: Recipe, model: Stage, embedder_stage: Stage) -> dict[str, package.Part]:
    parts = {
        f"model/{name}": package.part_of(model.path / name, sha256)
        for name, sha256 in model.files.items()
        if name != adapters.RECORD
    }
    for name, sha256 in embedder_stage.files.items():
        parts[f"embedder/{name}"] = package.part_of(embedder_stage.path / name, sha256)
    base, embed = recipe.base, recipe.embedder
    components = [
        ("Language model", base.id, sources.describe(base.source), base.licence),
        ("Embedder", embed.id, sources.describe(embed.source), embed.licence),
    ]
    for what, adapter in [("merged", recipe.adapter), *((f"{name!r}", item) for name, item in recipe.adapters.items())]:
        if adapter and adapter.licence:
            components.append((f"Adapter, {what}", f"{base.id} + LoRA", f"sha256 {adapter.sha256}", adapter.licence))
    return {**parts, **package.notices(components)}
