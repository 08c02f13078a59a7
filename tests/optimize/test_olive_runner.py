"""The door to Olive: versions are checked, and every way to fail is an error that names the log."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from edge.errors import BuildError
from optimize import child, olive_runner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """A module that a child can run."""
    (tmp_path / "some_step.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "some_step"


def test_only_the_runner_touches_olive() -> None:
    scripts = {"olive_prompts.py", "qnn_data.py"}  # that Olive loads in its process
    known = scripts | {"olive_runner.py", "qnn_runner.py"}  # the last for another Olive, in an environment of its own
    for path in (ROOT / "optimize").rglob("*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert ("olive" in imported) == (path.name in known), path.name


def test_installed_versions_are_those_of_the_adapter() -> None:
    olive_runner.check_versions()


@pytest.mark.parametrize("package", sorted(olive_runner.SHIM_VERSIONS))
def test_another_version_is_refused(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = olive_runner.importlib.metadata.version
    monkeypatch.setattr(
        olive_runner.importlib.metadata, "version", lambda name: "9.9.9" if name == package else real(name)
    )
    with pytest.raises(BuildError, match=rf"{package} 9\.9\.9 is installed"):
        olive_runner.check_versions()


@pytest.mark.process
def test_failed_child_shows_why_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    module = script(tmp_path, monkeypatch, "print('first')\nraise ValueError('the reason')")
    with pytest.raises(BuildError) as caught:
        child.run(module, [], "The step", "log-name", tmp_path)
    assert "The step failed with exit code 1" in str(caught.value)
    assert str(cache / "logs" / "log-name.log") in str(caught.value)
    assert "ValueError: the reason" in str(caught.value)


@pytest.mark.process
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL .*out of memory"),
        ("raise OSError(28, 'No space left on device')", "found the disk full"),
    ],
)
def test_known_ends_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        child.run(script(tmp_path, monkeypatch, text), [], "The step", "log-name", tmp_path)


@pytest.mark.process
def test_children_are_quiet_and_write_below_their_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    module = script(tmp_path, monkeypatch, "import os\nprint(sorted(f'{k}={v}' for k, v in os.environ.items()))")
    text = child.run(module, [], "The step", "log-name", tmp_path / "scratch").read_text()
    for wanted in ("ORT_DISABLE_TELEMETRY=1", "OLIVE_DISABLE_TELEMETRY=1", "CI=1", "HF_HUB_OFFLINE=1"):
        assert f"'{wanted}'" in text
    assert f"'HF_HUB_CACHE={tmp_path / 'scratch' / 'hf' / 'hub'}'" in text


@pytest.mark.process
def test_child_ends_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "pid"
    module = script(
        tmp_path,
        monkeypatch,
        "import os, pathlib, sys, time\nfrom optimize import child\nchild.die_with_parent()\n"
        "pathlib.Path(sys.argv[1] + '.new').write_text(str(os.getpid()))\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\ntime.sleep(60)",
    )
    parent = os.posix_spawn(
        sys.executable,
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from optimize import child; "
            f"child.run({module!r}, [sys.argv[1]], 'x', 'x', Path(sys.argv[1]).parent)",
            str(mark),
        ],
        {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(mark.read_text())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child outlived its parent")
