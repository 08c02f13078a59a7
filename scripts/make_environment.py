"""Makes an environment that a recipe needs beside this one, from its lock file; once, and in the cache folder.

    python scripts/make_environment.py optimum [--torch-index URL]

It is the interpreter of `tool: optimum` in a recipe; see optimize/environments.py. A second run does nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from edge.files import write_atomic
from optimize import environments

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


def make(name: str, torch_index: str | None) -> Path:
    """The environment's folder, made where it is not there; a half-made one is removed."""
    place, lock = environments.folder(name), environments.lock_file(name)
    if (place / environments.STAMP).is_file():
        return place
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    pins = lock.read_text(encoding="utf-8")
    torch = [line for line in pins.splitlines() if line.startswith("torch==")]
    if torch:  # first and alone: it may have an index of its own
        index = ["--index-url", torch_index] if torch_index else []
        check_torch(python, torch[0], index, place / "report.json")
        subprocess.run([python, *PIP, "install", "--no-deps", *index, torch[0]], check=True)
    subprocess.run([python, *PIP, "install", "--no-deps", "-r", str(lock)], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True, stdout=sys.stderr)
    write_atomic(place / environments.STAMP, pins)
    return place


def check_torch(python: str, wanted: str, index: list[str], report: Path) -> None:
    """Refuse a build of torch with CUDA, which brings gigabytes, before it is fetched."""
    look = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--report", str(report), *index, wanted]
    subprocess.run([python, *PIP, *look], check=True, stdout=subprocess.DEVNULL)
    needs = " ".join(json.loads(report.read_text(encoding="utf-8"))["install"][0]["metadata"].get("requires_dist", []))
    report.unlink()
    if "nvidia" in needs or "cuda" in needs:
        sys.exit(
            f"the package index serves {wanted} with CUDA (gigabytes, of no use here): give an index of CPU builds,\n"
            "  --torch-index https://download.pytorch.org/whl/cpu"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in environments.lock_file("x").parent.glob("*.lock"))
    parser.add_argument("name", choices=known)
    parser.add_argument("--torch-index", metavar="URL", help="a package index with CPU builds of torch")
    arguments = parser.parse_args()
    try:
        print(make(arguments.name, arguments.torch_index))
    except subprocess.CalledProcessError as error:
        print(f"not made: pip ended with exit code {error.returncode}, see above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
