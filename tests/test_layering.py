"""The house's walls: `edge` is light, never imports `optimize`, and runs with nothing but its own dependencies."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "olive", "optimum", "peft", "onnx", "optimize"}


def imports_of(path: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "edge").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_edge_imports_nothing_heavy(path: Path) -> None:
    assert not imports_of(path) & HEAVY


def test_only_one_file_imports_the_generator_library() -> None:
    users = [path for path in (ROOT / "edge").rglob("*.py") if "onnxruntime_genai" in imports_of(path)]
    assert users == [ROOT / "edge" / "engine" / "genai.py"]


def test_sql_lives_in_the_store_and_the_readers() -> None:
    users = {path.relative_to(ROOT / "edge").parts[0] for path in (ROOT / "edge").rglob("*.py")
             if "apsw" in imports_of(path)}  # fmt: skip
    assert users <= {"store", "ingest", "cli"}  # ingest reads users' databases, cli/doctor loads the extension


def base_distributions() -> set[str]:
    """Names of edge-slm's base dependencies and theirs, extras left out."""
    pending, found = ["edge-slm"], set()
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement, _, marker = line.partition(";")
            if "extra" in marker or ("platform" in marker and "linux" not in marker.lower()):
                continue
            needed = re.match(r"[\w.-]+", requirement.strip())
            try:
                importlib.metadata.version(needed.group() if needed else "")
            except importlib.metadata.PackageNotFoundError:
                continue  # for another Python version
            pending.append(needed.group() if needed else "")
    return found


@pytest.mark.process
def test_the_base_installs_and_runs_without_the_extras(tmp_path: Path) -> None:
    """A clean environment that holds the base dependencies and nothing else: every module imports, the CLI answers.

    Offline, so the distributions are linked from this environment rather than downloaded.
    """
    folder = tmp_path / "clean"
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in base_distributions() - {"edge-slm"}:
        for file in importlib.metadata.files(name) or []:
            top = Path(file.parts[0])
            source = Path(str(importlib.metadata.distribution(name).locate_file(top)))
            if file.parts[0] not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "edge").symlink_to(ROOT / "edge")
    info = Path(str(importlib.metadata.distribution("edge-slm")._path))  # type: ignore[attr-defined]
    (site / info.name).symlink_to(info)
    program = (
        "import importlib, pkgutil, sys, edge\n"
        "for m in pkgutil.walk_packages(edge.__path__, 'edge.'): importlib.import_module(m.name)\n"
        f"bad = sorted(set(sys.modules) & {HEAVY!r})\n"
        "assert not bad, bad\n"
    )
    python = folder / "bin" / "python"
    subprocess.run([python, "-W", "error", "-c", program], check=True, cwd=tmp_path)
    call = [python, "-c", "from edge.cli import main; main()"]
    shown = subprocess.run([*call, "--help"], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "optimize" in shown.stdout
    absent = subprocess.run([*call, "optimize", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert absent.returncode == 1
    assert "pip install 'edge-slm[optimize]'" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_every_shipped_text_is_free_of_machine_paths() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    pattern = re.compile(rb"(^|[^A-Za-z0-9_.])/(root|work)/")
    found = [name.decode() for name in tracked if name and pattern.search((ROOT / name.decode()).read_bytes())]
    assert found == []
