"""What a bundle says of itself and what it holds: finished stages to a manifest and its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import bundle
from edge.config import to_plain
from optimize import adapters, dialogue, embedder, export, olive_runner, package, reranker, sources, targets
from optimize.recipe import Recipe
from optimize.stages import Stage, digest_of, tools
from optimize.targets import Made

if TYPE_CHECKING:
    from optimize.build import Build


def pack(
    build: Build,
    model: Stage,
    embedder_stage: Stage,
    memory: bundle.Memory,
    gate: dict[str, Any],
    out: Path,
    made: tuple[Made, ...] = (),
    reranker_stage: Stage | None = None,
) -> tuple[str, bool]:
    """Write finished stages as a bundle; see `optimize.package.write_bundle`.

    :param made: further forms of the model, for accelerators.
    """
    manifest = _manifest(build, model, embedder_stage, memory, gate, made, reranker_stage)
    return package.write_bundle(manifest, _parts(build.recipe, model, embedder_stage, made, reranker_stage), out)


def _manifest(
    build: Build,
    model: Stage,
    embedder_stage: Stage,
    memory: bundle.Memory,
    gate: dict[str, Any],
    made: tuple[Made, ...],
    reranker_stage: Stage | None,
) -> bundle.Manifest:
    recipe = build.recipe
    licences = {recipe.base.licence, recipe.embedder.licence}
    entries = tuple(form.entry for form in made)
    ranks = None
    if recipe.reranker and reranker_stage:
        ranks = reranker.section(recipe.reranker, reranker_stage.path, "reranker")
        licences.add(recipe.reranker.licence)
    return bundle.Manifest(
        schema=bundle.schema_of(entries, ranks),
        name=recipe.name,
        version=recipe.version,
        target=recipe.target,
        licence=" AND ".join(sorted(licences)),
        recipe=recipe.name,
        recipe_digest=recipe_digest(build),
        tools={**tools(*sorted({*export.TOOLS, *olive_runner.TOOLS})), **targets.get(recipe.target).tools()},
        model=_model_section(recipe, model.path),
        embedder=embedder.section(recipe.embedder, embedder_stage.path, "embedder"),
        memory=memory,
        gate=gate,
        targets=entries,
        reranker=ranks,
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
        special_tokens=dialogue.special_tokens(folder),
        answers=recipe.answers,
        languages=recipe.languages,
        adapters=adapters.entries(folder, "model"),
    )


def recipe_digest(build: Build) -> str:
    """sha256 over everything that decided the result: the recipe, and what each stage read."""
    recipe = to_plain(build.recipe)
    if recipe["reranker"] is None:
        del recipe["reranker"]
    for section in ("base", "embedder", "reranker"):
        if section in recipe:
            recipe[section].pop("source")  # may hold a path of this machine; its bytes are in what the stages read
    for section, paths in (("finetune", "data"), ("adapter", "path")):
        if recipe[section]:
            recipe[section].pop(paths)
    for source in recipe["adapters"].values():
        source.pop("path")
    for section in targets.TARGETS:
        if recipe.get(section, ...) is None:  # of a target that is not built for
            del recipe[section]
    return digest_of({"recipe": recipe, "stages": [stage.key for stage in build.stages]})


def _parts(
    recipe: Recipe, model: Stage, embedder_stage: Stage, made: tuple[Made, ...], reranker_stage: Stage | None
) -> dict[str, package.Part]:
    parts = {
        f"model/{name}": package.part_of(model.path / name, sha256)
        for name, sha256 in model.files.items()
        if name != adapters.RECORD
    }
    for folder, stage in (("embedder", embedder_stage), ("reranker", reranker_stage)):
        if stage:
            for name, sha256 in stage.files.items():
                parts[f"{folder}/{name}"] = package.part_of(stage.path / name, sha256)
    for form in made:
        for name, sha256 in form.stage.files.items():
            if name not in form.apart:
                parts[f"{form.entry.path}/{name}"] = package.part_of(form.stage.path / name, sha256)
    base, embed = recipe.base, recipe.embedder
    components = [
        ("Language model", base.id, sources.describe(base.source), base.licence),
        ("Embedder", embed.id, sources.describe(embed.source), embed.licence),
    ]
    if ranks := recipe.reranker:
        components.append(("Reranker", ranks.id, sources.describe(ranks.source), ranks.licence))
    for what, adapter in [("merged", recipe.adapter), *((f"{name!r}", item) for name, item in recipe.adapters.items())]:
        if adapter and adapter.licence:
            components.append((f"Adapter, {what}", f"{base.id} + LoRA", f"sha256 {adapter.sha256}", adapter.licence))
    return {**parts, **package.notices(components)}
