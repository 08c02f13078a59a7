"""The bill of materials of a bundle, as CycloneDX 1.6 JSON, made from its manifest alone.

No serial number and no time: the same bundle gives the same bytes. Source: CycloneDX specification 1.6, JSON.
"""

from __future__ import annotations

import json
from typing import Any

from edge.bundle import BaseModel, Manifest


def sbom(manifest: Manifest, digest: str) -> bytes:
    """What is inside a bundle: the model, the embedder, and the versions of what built it.

    :param digest: of the bundle.
    """
    top = f"bundle:{manifest.name}@{manifest.version}"
    model, embedder = _weights("model", manifest.model.base), _weights("embedder", manifest.embedder.base)
    tools = [
        {"type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
         "purl": f"pkg:pypi/{name}@{version}", "scope": "excluded"}
        for name, version in sorted(manifest.tools.items())
    ]  # fmt: skip
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model", "bom-ref": top, "name": manifest.name, "version": manifest.version,
                "hashes": [{"alg": "SHA-256", "content": digest}], "licenses": [{"expression": manifest.licence}],
            }
        },
        "components": [model, embedder, *tools],
        "dependencies": [{"ref": top, "dependsOn": [model["bom-ref"], embedder["bom-ref"]]}],
    }  # fmt: skip
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _weights(part: str, base: BaseModel) -> dict[str, Any]:
    group, _, name = base.id.rpartition("/")
    found: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": f"{part}:{base.id}"}
    if group:
        found["group"] = group
    return found | {
        "name": name,
        "description": f"{part}; from {base.source}",
        "hashes": [{"alg": "SHA-256", "content": base.sha256}],
        "licenses": [{"expression": base.licence}],
    }
