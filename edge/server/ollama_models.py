"""The bundle as Ollama's API describes models. (pure, but for the chat template's file)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from edge import bundle as bundles
from edge.bundle import Bundle
from edge.server.service import Model

_SIZE = re.compile(r"(?<![A-Za-z\d])(\d+(?:\.\d+)?[MB])(?![A-Za-z])")


def model_card(bundle: Bundle, name: str) -> dict[str, Any]:
    """An entry of /api/tags; `size` in bytes, of the whole bundle."""
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    return {
        "name": name, "model": name, "modified_at": _modified(bundle), "size": size, "digest": bundle.digest,
        "details": _details(bundle),
    }  # fmt: skip


def loaded_card(bundle: Bundle, name: str, state: Mapping[str, Any], until: datetime) -> dict[str, Any]:
    """An entry of /api/ps; `size` in bytes of memory, by the ledger."""
    return {
        "name": name, "model": name, "size": sum(size for _, _, size in state.get("lines", ())), "size_vram": 0,
        "digest": bundle.digest, "details": _details(bundle), "expires_at": until.replace(tzinfo=UTC).isoformat(),
        "context_length": state["context_tokens"],
    }  # fmt: skip


def model_details(bundle: Bundle, model: Model) -> dict[str, Any]:
    """The reply of /api/show; the template is Jinja's, which Ollama's own are not."""
    manifest = bundle.manifest
    section, family = manifest.model, _family(bundle)
    info = {
        "general.architecture": family,
        "general.name": manifest.name,
        "general.version": manifest.version,
        "general.base_model.0.name": section.base.id,
        "general.license": manifest.licence,
        f"{family}.context_length": section.context_tokens,
        f"{family}.embedding_length": manifest.embedder.dim,
    }
    return {
        "license": manifest.licence, "modelfile": "", "parameters": f"num_ctx {section.context_tokens}",
        "template": bundles.chat_template(bundle), "details": _details(bundle), "model_info": info,
        "capabilities": ["completion"] if model.rag else ["completion", "tools"], "modified_at": _modified(bundle),
    }  # fmt: skip


def _details(bundle: Bundle) -> dict[str, Any]:
    section, family = bundle.manifest.model, _family(bundle)
    size = _SIZE.search(section.base.id)
    return {
        "parent_model": section.base.id, "format": "onnx", "family": family, "families": [family],
        "parameter_size": size.group(1) if size else "", "quantization_level": section.precision,
    }  # fmt: skip


def _family(bundle: Bundle) -> str:
    """The first word of the base model's name: "SmolLM2-135M-Instruct" is of the family smollm2."""
    return bundle.manifest.model.base.id.rpartition("/")[2].partition("-")[0].lower()


def _modified(bundle: Bundle) -> str:
    return datetime.fromtimestamp((bundle.path / bundles.MANIFEST).stat().st_mtime, UTC).isoformat()
