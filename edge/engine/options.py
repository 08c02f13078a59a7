"""How an engine is set up: by what the memory plan admits, the bundle's model can, and the configuration asks for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from edge.engine.base import EngineOptions

if TYPE_CHECKING:
    from edge.budget import Plan
    from edge.bundle import ModelSection
    from edge.bundle_targets import TargetEntry
    from edge.config import EngineConfig


def options_for(model: ModelSection, config: EngineConfig, plan: Plan, threads: int) -> EngineOptions:
    """For the model's form on the CPU."""
    rows = int(model.quantization.get("logits_rows", 0))  # 0: logits of all positions
    return EngineOptions(
        context_tokens=plan.use.context_tokens,
        threads=threads,
        prefill_chunk_tokens=plan.use.piece_tokens,
        prefix_caches=min(config.prefix_caches, plan.use.sessions + plan.use.prefixes),
        sessions=plan.use.sessions,
        guided=plan.use.guided,
        draft_tokens=min(config.draft_tokens, rows - 1) if rows else config.draft_tokens,  # a row each, and one more
        draft_ngram=config.draft_ngram,
        tight_memory=plan.is_tight,
    )


def on_accelerator(options: EngineOptions, entry: TargetEntry) -> EngineOptions:
    """For graphs of fixed shapes: a prompt in one call, nothing kept and nothing guessed ahead."""
    context = min(options.context_tokens, entry.context_tokens)
    return dataclasses.replace(
        options,
        context_tokens=context,
        prefill_chunk_tokens=context,
        prefix_caches=0,
        sessions=1,
        guided=False,
        draft_tokens=0,
        provider=entry.provider,
    )
