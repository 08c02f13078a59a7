"""The house's walls: `edge` is light, never imports `optimize`, and runs with nothing but its own dependencies."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
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


def test_only_one_file_knows_the_generator_library() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "edge").rglob("*.py")}
    assert [path for path, text in texts.items() if "onnxruntime_genai" in text] == [ROOT / "edge/engine/library.py"]


def test_the_engine_s_process_imports_little() -> None:
    """Each MiB of its own is one less for the weights on a small box."""
    heavy = {"yaml", "email", "asyncio", "apsw", "tokenizers", "numpy", "onnxruntime", "onnxruntime_genai"}
    code = f"import sys, edge.engine.child; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the project, built from a copy so that nothing is left behind in the checkout. No network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("edge", "optimize", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", out, source], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment: the wheel, installed, the base dependencies, and nothing else.

    Offline, so the dependencies are linked from this environment rather than downloaded.
    """
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in base_distributions() - {"edge-slm"}:
        for file in importlib.metadata.files(name) or []:
            top = Path(file.parts[0])
            source = Path(str(importlib.metadata.distribution(name).locate_file(top)))
            if file.parts[0] not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(source)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--disable-pip-version-check", wheel], check=True)
    return folder


def run_in(clean: Path, home: Path, *call: str) -> subprocess.CompletedProcess[str]:
    """A program of the clean environment, started where no checkout is in sight."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"EDGE_HOME": str(home)}
    program = [clean / "bin" / call[0], *call[1:]]
    done = subprocess.run(program, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.process
def test_every_module_imports_without_the_extras(clean: Path, tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, sys, edge\n"
        "assert 'site-packages' in edge.__file__, edge.__file__\n"
        "for m in pkgutil.walk_packages(edge.__path__, 'edge.'): importlib.import_module(m.name)\n"
        f"bad = sorted(set(sys.modules) & {HEAVY!r})\n"
        "assert not bad, bad\n"
    )
    done = run_in(clean, tmp_path, "python", "-W", "error", "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_the_installed_command_answers(clean: Path, tmp_path: Path) -> None:
    shown = run_in(clean, tmp_path, "edge", "--version").stdout
    assert importlib.metadata.version("edge-slm") in shown
    assert "optimize" in run_in(clean, tmp_path, "edge", "--help").stdout
    found = json.loads(run_in(clean, tmp_path, "edge", "doctor", "--json").stdout)
    wrong = {finding["check"] for finding in found["findings"] if finding["level"] == "fail"}
    assert wrong == {"bundle", "index"}  # there is none yet; all else is in order
    absent = run_in(clean, tmp_path, "edge", "optimize", "run")
    assert absent.returncode == 1
    assert "pip install 'edge-slm[optimize]'" in absent.stderr


@pytest.mark.process
def test_a_wheel_carries_the_recipes_and_all_other_configuration(clean: Path, tmp_path: Path) -> None:
    (carried,) = clean.glob("lib/python*/site-packages/edge/configs")
    expected = {file.relative_to(ROOT / "configs"): file.read_bytes() for file in (ROOT / "configs").rglob("*.yaml")}
    assert {file.relative_to(carried): file.read_bytes() for file in carried.rglob("*.yaml")} == expected
    lines = run_in(clean, tmp_path, "edge", "optimize", "recipes").stdout.splitlines()
    listed = {name.removesuffix(" (default)"): Path(path) for name, path in (line.split("\t") for line in lines)}
    assert listed == {file.stem: file for file in (carried / "optimize").glob("*.yaml")}
    assert len(listed) >= 2


def test_every_shipped_text_is_free_of_machine_paths() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    pattern = re.compile(rb"(^|[^A-Za-z0-9_.])/(root|work)/")
    files = [ROOT / name.decode() for name in tracked if name]
    found = [str(file.relative_to(ROOT)) for file in files if file.is_file() and pattern.search(file.read_bytes())]
    assert found == []
