"""Weights in this CPU's own layout, kept on disk and mapped: the runtime need not unpack them into private memory.

On load, ONNX Runtime rearranges quantized weights for the instructions of the CPU, in private memory and beside the
file they come from. `prepare` lets it do so once and saves the result in `<cache>/prepared/<bundle digest>/<cpu and
runtime>/`. Such a copy is right for the CPU and the runtime that made it, and some graphs are saved wrong without a
word (docs/decisions.md), so it is used only once its logits were equal to the bundle's on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from edge.bundle import Bundle
from edge.errors import EngineError
from edge.files import sha256_file, sync_directory, write_atomic
from edge.machine import installed_version

RECORD = "prepared.json"
SCHEMA = 2  # 2: says which parts of the files are in use
KEPT_BUNDLES = 3
"""Copies are kept for so many bundles, the newest: the one in use, and those that a rollback may bring back."""
_TIMEOUT_SEC = 900.0
_KEPT = ("genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def platform_key(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A name for what a copy depends on: the CPU's kind and instructions, and the runtime's versions."""
    features = ""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):  # x86, arm
                features = " ".join(sorted(line.partition(":")[2].split()))
                break
    except OSError:
        features = platform.processor()
    digest = hashlib.sha256(features.encode()).hexdigest()[:12]
    runtime, library = installed_version("onnxruntime"), installed_version("onnxruntime-genai")
    return f"{platform.machine()}-{digest}-ort{runtime}-genai{library}"


def folder_of(bundle: Bundle, cache: Path) -> Path:
    """Where the copy for this bundle, CPU and runtime belongs."""
    return cache / "prepared" / bundle.digest / platform_key()


def find(bundle: Bundle, cache: Path) -> Path | None:
    """The model folder prepared for this bundle on this machine, or None where there is none that is whole.

    Sizes are checked, contents are not (`verify` does): it is looked for on every start.
    """
    folder = folder_of(bundle, cache)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sizes = {name: entry["bytes"] for name, entry in record["files"].items()}
        whole = (record["schema"], record["bundle"], record["platform"]) == (SCHEMA, bundle.digest, platform_key())
        whole = whole and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if whole else None


def verify(folder: Path) -> None:
    """Read a prepared copy's every byte.

    :raises EngineError: a file is not what was written.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        changed = [name for name, entry in record["files"].items() if sha256_file(folder / name) != entry["sha256"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{folder}: no whole prepared copy: {error}. Run `edge bundle prepare --again`") from None
    if changed:
        raise EngineError(f"{folder / changed[0]}: damaged or changed. Run `edge bundle prepare --again`")


def prepare(bundle: Bundle, cache: Path) -> Path:
    """Make, check and keep the copy for this machine; return its folder. A copy that is there is replaced.

    Takes about twice the bundle's weights on disk, and for some seconds the private memory that the copy will save.
    It appears by rename: killed anywhere, it leaves no copy that would be used.

    :raises EngineError: the disk is full, the runtime fails, or the copy's logits are not the bundle's; the bundle's
        own weights serve in either case.
    """
    folder = folder_of(bundle, cache)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    source = bundle.path / bundle.manifest.model.path
    try:
        _clear(folder.parent)
        scratch.mkdir(parents=True)
        _run("pack", str(source), str(scratch))
        for name in _KEPT:
            if (source / name).is_file():
                shutil.copyfile(source / name, scratch / name)
        adapters = [str(bundle.path / adapter.path) for adapter in bundle.manifest.model.adapters]
        wanted, got = _run("logits", str(source), *adapters), _run("trace", str(scratch), *adapters)
        if wanted != got:
            raise EngineError(
                f"the weights prepared for this CPU give other logits than the bundle's ({got} for {wanted}); "
                "they were thrown away, and the bundle's own are used, with more memory"
            )
        _seal(bundle, scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise EngineError(f"the weights cannot be prepared for this CPU: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _clear(bundle_folder: Path) -> None:
    """Remove what other runs left half-written, copies for another CPU or runtime, and those of older bundles."""
    for path in bundle_folder.glob("*"):
        if path.name != platform_key() and not _is_in_use(path):
            shutil.rmtree(path, ignore_errors=True)
    others = [path for path in bundle_folder.parent.glob("*") if path != bundle_folder]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_BUNDLES - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _is_in_use(path: Path) -> bool:
    """Whether another process is writing this folder."""
    pid = path.name.removesuffix(".partial").rpartition(".")[2]
    return path.name.endswith(".partial") and pid.isdigit() and Path(f"/proc/{pid}").exists()


def _seal(bundle: Bundle, folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[path.name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    record = {"schema": SCHEMA, "bundle": bundle.digest, "platform": platform_key(), "files": files}
    write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _run(*arguments: str) -> str:
    """Run `python -m edge.engine.pack`: in a process of its own, all the memory it takes goes back at its end."""
    command = [sys.executable, "-m", "edge.engine.pack", str(os.getpid()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SEC, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(f"preparing the weights for this CPU took more than {_TIMEOUT_SEC:.0f} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"the weights cannot be prepared for this CPU: {said}")
    return done.stdout.strip()
