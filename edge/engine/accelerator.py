"""Which form of a bundle's model runs here: the one for an accelerator, where that really takes it, or the CPU's.

    choice = choose(bundle, "auto")
    choice.entry      # of the manifest's `targets`; None: the CPU form
    choice.refusals   # why each other one does not run here

A provider's libraries come from its maker and load whatever drivers are there, so they are asked in a process of their
own (`python -m edge.engine.accelerator`): what crashes there leaves the box on the CPU form, with the reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.bundle import Bundle
from edge.bundle_targets import TargetEntry

Wanted = Literal["auto", "off", "simulator"]
_LOOK_SEC = 120.0
_COMPILED = "EPContext"


@dataclass(frozen=True, slots=True)
class _Plugin:
    """How a provider's package is used."""

    module: str
    genai_name: str  # what onnxruntime-genai calls the provider in genai_config.json
    paths: Mapping[str, str]  # option of the provider -> the module's function that knows its path on this machine


_PLUGINS = {
    "QNNExecutionProvider": _Plugin("onnxruntime_qnn", "qnn", {"backend_path": "get_qnn_htp_path"}),
    "OpenVINOExecutionProvider": _Plugin("onnxruntime_ep_openvino", "OpenVINO", {}),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs, and what does not."""

    entry: TargetEntry | None = None
    refusals: tuple[str, ...] = ()  # a sentence each, for people


def choose(bundle: Bundle, wanted: Wanted) -> Choice:
    """The first of the bundle's further forms that runs here; looks at packages, versions, devices and assigned nodes.

    :param wanted: "off" looks at nothing; "simulator" also takes a provider's simulator, which is slow, for a device.
    """
    if wanted == "off":
        return Choice()
    refusals: list[str] = []
    for entry in bundle.manifest.targets:
        if entry.provider not in _PLUGINS:  # graphs that are not compiled: for comparison, not for use
            continue
        refusal = _package_refusal(entry) or _device_refusal(entry, bundle.path / entry.path, wanted == "simulator")
        if refusal is None:
            return Choice(entry, tuple(refusals))
        refusals.append(f"the form for {entry.name} does not run here, so the CPU's does: {refusal}")
    return Choice(None, tuple(refusals))


def _package_refusal(entry: TargetEntry) -> str | None:
    wanted = f"{entry.package}=={entry.package_version}"
    try:
        found = importlib.metadata.version(entry.package)
    except importlib.metadata.PackageNotFoundError:
        return f"the package {entry.package} is missing; on a box with that chip, `pip install {wanted}`"
    if found != entry.package_version:
        return f"it was compiled with {wanted}, and {found} is installed: `pip install {wanted}`, or build it anew"
    return None


def _device_refusal(entry: TargetEntry, folder: Path, simulated: bool) -> str | None:
    found = look(entry.provider, folder, entry)
    if "error" in found:
        return str(found["error"])
    kinds = found["devices"]
    if not simulated and not set(kinds) & set(entry.devices):
        return f"no {' or '.join(entry.devices)} found (the provider has: {', '.join(kinds) or 'no device'})"
    share = found["share"]
    if share < entry.min_assigned_share:
        left = ", ".join(f"{name} ({count})" for name, count in sorted(found["left"].items()))
        return (
            f"its provider took {share:.0%} of the nodes, and the bundle asks for {entry.min_assigned_share:.0%}; "
            f"it left {left}"
        )
    return None


def look(provider: str, folder: Path | None = None, entry: TargetEntry | None = None) -> dict[str, Any]:
    """What a provider finds on this machine, asked in a process of its own.

    :returns: `devices` (kinds, such as "NPU"), and with an entry `share` of the nodes that it took, 0..1, and what it
        `left` by operator; or `error`.
    """
    job: dict[str, Any] = {"provider": provider}
    if folder is not None and entry is not None:
        job |= {"folder": str(folder), "stages": list(entry.stages), "options": entry.provider_options}
    call = [sys.executable, "-m", "edge.engine.accelerator", json.dumps(job)]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=_LOOK_SEC, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"its provider did not answer within {_LOOK_SEC:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"error": f"its provider failed: {why}"}
    return found


def installed() -> dict[str, str]:
    """Provider -> version of its package, of those that are installed: for `edge doctor`."""
    found = {}
    for provider, plugin in _PLUGINS.items():
        try:
            found[provider] = importlib.metadata.version(plugin.module.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def register(provider: str, library: Any) -> None:
    """Let onnxruntime or onnxruntime-genai, the `library`, know of a provider in this process."""
    module = importlib.import_module(_PLUGINS[provider].module)
    library.register_execution_provider_library(provider, module.get_library_path())


def path_options(provider: str) -> dict[str, str]:
    """The provider's options that are paths on this machine."""
    plugin = _PLUGINS[provider]
    module = importlib.import_module(plugin.module)
    return {option: str(getattr(module, function)()) for option, function in plugin.paths.items()}


def on_this_machine(folder: Path, provider: str) -> tempfile.TemporaryDirectory[str]:
    """A folder of links to a model's files, with a configuration that has this machine's paths; removed when closed."""
    plugin, told = _PLUGINS[provider], path_options(provider)
    made = tempfile.TemporaryDirectory(prefix="edge-accelerator-")
    for file in folder.iterdir():
        if file.name != "genai_config.json":
            (Path(made.name) / file.name).symlink_to(file.absolute())
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    decoder = config["model"]["decoder"]
    for settings in [decoder, *(stage for part in decoder.get("pipeline", []) for stage in part.values())]:
        for options in settings.get("session_options", {}).get("provider_options", []):
            if plugin.genai_name in options:
                options[plugin.genai_name] |= told
    (Path(made.name) / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def _main(job: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime as ort

    provider = job["provider"]
    register(provider, ort)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider]
    found: dict[str, Any] = {"devices": sorted({str(device.device.type).rpartition(".")[2] for device in devices})}
    if "folder" not in job or not devices:
        return found | {"share": 0.0, "left": {}}
    taken, left = 0, dict[str, int]()
    for graph in _graphs(Path(job["folder"]), job["stages"]):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.add_provider_for_devices(devices[:1], {**path_options(provider), **job["options"]})
        session = ort.InferenceSession(str(graph), options)
        parts = [
            (p.ep_name, node.op_type) for p in session.get_provider_graph_assignment_info() for node in p.get_nodes()
        ]
        if any(kind == _COMPILED for _, kind in parts):  # the rest was the CPU's when it was compiled, and is counted
            parts = [(name, kind) for name, kind in parts if kind == _COMPILED]  # in the manifest's gate
        taken += sum(name == provider for name, _ in parts)
        for name, kind in parts:
            if name != provider:
                left[kind] = left.get(kind, 0) + 1
    total = taken + sum(left.values())
    return found | {"share": taken / total if total else 0.0, "left": left}


def _graphs(folder: Path, stages: list[str]) -> list[Path]:
    decoder = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    pipeline = {name: stage for part in decoder.get("pipeline", []) for name, stage in part.items()}
    if not pipeline:
        return [folder / decoder["filename"]]
    return [folder / stage["filename"] for name, stage in pipeline.items() if not stages or name in stages]


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        reply = _main(json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - a maker's library may raise anything; it is told, not hidden
        reply = {"error": " ".join(str(error).split())[:300]}
    sys.stdout.write(json.dumps(reply) + "\n")
