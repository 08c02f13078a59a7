"""`edge service` writes files and says what to run; it starts nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.cli import service as module
from edge.cli.service import service
from edge.errors import BundleError, UsageError
from edge.service import units


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's state folder; and no folder is hidden, for tests run in temporary ones."""
    monkeypatch.setattr(units, "HIDDEN_FOLDERS", ())
    monkeypatch.setattr(units, "STATE_FOLDER", tmp_path / "state")
    monkeypatch.setattr(module, "_active", dict)
    return tmp_path / "state"


def run(tmp_path: Path, *arguments: str) -> Result:
    folders = ["--unit-dir", str(tmp_path / "units"), "--sysusers-dir", str(tmp_path / "users")]
    return CliRunner().invoke(service, [*arguments, *folders], catch_exceptions=False, standalone_mode=False)


def test_install_status_uninstall(tmp_path: Path) -> None:
    assert run(tmp_path, "status").return_value == 1
    done = run(tmp_path, "install", "--memory-max", "300MiB")
    assert [line for line in done.stdout.splitlines() if line.startswith("  system")] == [
        f"  systemd-sysusers {tmp_path / 'users' / 'edge-slm.conf'}",
        "  systemctl daemon-reload",
        "  systemctl enable --now edge.socket",
    ]
    unit = (tmp_path / "units" / "edge.service").read_text()
    assert f"MemoryMax={300 * 2**20}\n" in unit
    assert "ReadWritePaths" not in unit
    assert "ListenStream=127.0.0.1:8642\n" in (tmp_path / "units" / "edge.socket").read_text()
    assert run(tmp_path, "install", "--memory-max", "300MiB").stdout.startswith("nothing has changed\n")
    found = run(tmp_path, "status", "--json")
    assert found.return_value == 0
    assert set(json.loads(found.stdout)["files"].values()) == {"installed"}
    assert "systemctl daemon-reload" in run(tmp_path, "uninstall").stdout
    assert run(tmp_path, "uninstall").stdout == "nothing was installed\n"


def test_the_services_own_configuration_is_followed(tmp_path: Path, state: Path) -> None:
    state.mkdir()
    (state / "config.yaml").write_text("server:\n  listen: unix:/run/edge-slm/e.sock\n  drain_sec: 5\n")
    texts = json.loads(run(tmp_path, "install", "--memory-max", "1GiB", "--dry-run", "--json").stdout)["files"]
    assert "ListenStream=/run/edge-slm/e.sock\n" in texts["edge.socket"]
    assert "TimeoutStopSec=20\n" in texts["edge.service"]
    assert not (tmp_path / "units").exists()


def test_paths_outside_are_named_to_the_daemon(tmp_path: Path) -> None:
    arguments = ["--bundle", "/srv/bundle", "--index", "/srv/edge/index.db", "--memory-max", "1GiB", "--dry-run"]
    shown = run(tmp_path, "install", *arguments, "--listen", "9000").stdout
    assert "-m edge serve --bundle /srv/bundle --index /srv/edge/index.db\n" in shown
    assert "ReadWritePaths=/srv/edge\n" in shown
    assert "ListenStream=127.0.0.1:9000\n" in shown


def test_memory_comes_from_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.service import limits

    with pytest.raises(BundleError, match="--memory-max"):
        run(tmp_path, "install")
    monkeypatch.setattr(limits, "memory_max", lambda box: (7 * 2**20, f"for {box.bundle_path}"))
    assert (
        f"# for {tmp_path / 'state' / 'bundle'}\nMemoryMax={7 * 2**20}\n"
        in run(tmp_path, "install", "--dry-run").stdout
    )


def test_a_service_that_runs_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_active", lambda: {"edge.socket": "active", "edge.service": "inactive"})
    steps = json.loads(run(tmp_path, "install", "--memory-max", "300MiB", "--json").stdout)["next"]
    assert steps == ["systemctl daemon-reload", "systemctl restart edge.socket edge.service"]


def test_traces_that_the_service_cannot_send_are_told(tmp_path: Path, state: Path) -> None:
    state.mkdir()
    (state / "config.yaml").write_text("server: {traces: 'http://127.0.0.1:4318'}\n")
    assert "PrivateNetwork=no" in run(tmp_path, "install", "--memory-max", "300MiB").stderr


def test_what_the_service_would_not_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "HIDDEN_FOLDERS", (Path("/home"),))
    with pytest.raises(UsageError, match=r"/home/me/b: put it below /var/lib/edge-slm"):
        run(tmp_path, "install", "--bundle", "/home/me/b", "--memory-max", "1GiB")
    monkeypatch.setattr(units, "HIDDEN_FOLDERS", (Path(module.__file__).parents[2],))
    with pytest.raises(UsageError, match=r"pip install edge-slm"):
        run(tmp_path, "install", "--memory-max", "1GiB")
    assert "### edge.service" in run(tmp_path, "install", "--memory-max", "1GiB", "--dry-run").stdout
    assert not (tmp_path / "units").exists()


def test_sizes_and_addresses_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--memory-max: 'lots' is no size"):
        run(tmp_path, "install", "--memory-max", "lots")
    with pytest.raises(UsageError, match="reaches beyond this machine"):
        run(tmp_path, "install", "--memory-max", "1GiB", "--listen", "0.0.0.0:80")


def test_systemd_is_asked_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/systemctl")
    monkeypatch.setattr(module.Path, "is_dir", lambda self: True)
    said = subprocess.CompletedProcess([], 3, stdout="active\ninactive\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *arguments, **options: said)
    assert module._active() == {"edge.socket": "active", "edge.service": "inactive"}
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module._active() == {}
