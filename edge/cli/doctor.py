"""`edge doctor`: whether this machine, the bundle and the index can answer, and what to do where they cannot."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import click

from edge.box import Box
from edge.cli.common import human_bytes, json_option, memory_budget_option, print_json, with_box
from edge.errors import EdgeError, StoreMissing
from edge.files import home
from edge.machine import cores

Level = Literal["ok", "note", "fail"]
PACKAGES = ("onnxruntime", "onnxruntime-genai", "sqlite-vec", "apsw", "tokenizers", "numpy")
EXTRAS = {"documents": ("pypdfium2", "markitdown"), "optimize": ("torch", "olive", "transformers")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `fail` means that questions cannot be answered before it is mended."""

    check: str
    level: Level
    text: str


@click.command()
@memory_budget_option
@json_option
@with_box
def doctor(box: Box, as_json: bool) -> int:
    """Check this machine, the bundle and the index."""
    findings = [finding for check in (_machine, _packages, _extras, _vectors, _providers) for finding in check()]
    findings += [_tried("bundle", lambda: _bundle(box)), _tried("index", lambda: _index(box)), _disk(box)]
    if all(finding.level != "fail" for finding in findings if finding.check == "bundle"):
        findings.append(_tried("memory", lambda: _memory(box)))
    if as_json:
        plain = [{"check": f.check, "level": f.level, "text": f.text} for f in findings]
        print_json({"ok": all(f.level != "fail" for f in findings), "findings": plain})
    else:
        for finding in findings:
            click.echo(f"{finding.level:<5} {finding.check:<10} {finding.text}")
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _tried(check: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "ok", run())
    except StoreMissing as error:
        return Finding(check, "note", str(error))
    except (EdgeError, ImportError, OSError) as error:
        return Finding(check, "fail", str(error))


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    offline = ", network forbidden by EDGE_OFFLINE" if os.environ.get("EDGE_OFFLINE") == "1" else ""
    return [Finding("machine", "ok", f"{system}, {cores()} cores allowed, {human_bytes(memory)} free memory{offline}")]


def _packages() -> list[Finding]:
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            return [Finding("packages", "fail", f"{name} is not installed: pip install edge-slm")]
    return [Finding("packages", "ok", ", ".join(versions))]


def _extras() -> list[Finding]:
    findings = []
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        text = f"not installed ({', '.join(absent)}): pip install 'edge-slm[{extra}]'" if absent else "installed"
        findings.append(Finding(extra, "note" if absent else "ok", text))
    return findings


def _vectors() -> list[Finding]:
    try:
        import apsw
        import sqlite_vec
    except ImportError as error:
        return [Finding("sqlite", "fail", f"{error}: reinstall apsw and sqlite-vec")]
    try:
        connection = apsw.Connection(":memory:")
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        row = connection.execute("SELECT vec_version(), sqlite_version()").fetchone()
        connection.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
    except apsw.Error as error:
        return [Finding("sqlite", "fail", f"sqlite-vec or FTS5 cannot be loaded: {error}; reinstall apsw, sqlite-vec")]
    return [Finding("sqlite", "ok", f"SQLite {row[1]} with FTS5, sqlite-vec {row[0]}" if row else "loaded")]


def _providers() -> list[Finding]:
    """Who can run a model here: the CPU, and each accelerator whose package is installed, with the devices it finds."""
    from edge.engine.accelerator import installed, look

    found = ["CPUExecutionProvider"]
    level: Level = "ok"
    for provider, version in installed().items():
        said = look(provider)
        if "error" in said:
            level = "note"
        devices = ", ".join(said.get("devices", [])) or said.get("error", "no device")
        found.append(f"{provider} {version} ({devices})")
    return [Finding("providers", level, "; ".join(found))]


def _memory(box: Box) -> str:
    """Before anything is loaded: the ledger begins with this process as it is."""
    from edge.budget import Use, fit

    budget = box.budget
    plan = fit(box.parts, budget, Use(box.config.answer.context_tokens, one_question=True))
    refused = f" ({plan.refusals[0]})" if plan.refusals else ""
    return (
        f"budget {human_bytes(budget.bytes)}, {budget.source}; a question needs {human_bytes(plan.kept_bytes)} with "
        f"{plan.use.context_tokens} tokens of context{refused}; `edge plan` shows the parts"
    )


def _bundle(box: Box) -> str:
    from edge.bundle import verify

    manifest = verify(box.bundle_path).manifest
    box.engine.load()
    entry = box.accelerator.entry
    by = f" by {entry.provider}" if entry else ""
    refused = "".join(f"; {refusal}" for refusal in box.accelerator.refusals)
    where = f"at {box.bundle_path}: whole, and it loads{by}{refused}"
    return f"{manifest.name} {manifest.version} ({manifest.model.precision}) {where}"


def _index(box: Box) -> str:
    from edge.store.upkeep import problems, status

    if found := problems(box.store):
        raise EdgeError(f"{box.index_path} is damaged: {'; '.join(found[:3])}. Run `edge index rebuild`")
    state = status(box.store)
    advice = "; `edge index compact` would pay" if state.compact_pays else ""
    return f"{state.documents} documents, {state.chunks} chunks, {human_bytes(state.bytes)}: sound{advice}"


def _disk(box: Box) -> Finding:
    folder = next(path for path in (box.index_path.absolute().parent, *home().absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    level: Level = "ok" if free > 256 * 2**20 else "note"
    return Finding("disk", level, f"{human_bytes(free)} free at {folder}")
