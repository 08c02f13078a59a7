"""Installations as processes: killed at random points, without a network, on a disk that is read-only.

EDGE_KILL_POINTS and EDGE_KILL_SEED make the first a long run (scripts/qualify), EDGE_KILL_REPORT names a file for its
figures. `tests/edge/deploy/test_power_cut.py` replays what a power cut would leave, which a kill does not.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.bundle import load
from edge.deploy.keys import generate
from edge.deploy.links import served
from edge.deploy.pack import add_signature, pack
from tests.edge.deploy.made import Shop, check_box, check_clean
from tests.fakes import manifest_of, write_seal

ROOT = Path(__file__).resolve().parents[2]
POINTS = int(os.environ.get("EDGE_KILL_POINTS", "10"))
SEED = int(os.environ.get("EDGE_KILL_SEED", "3"))
LARGE_BYTES = 8 * 2**20

# The process that is killed: the real installation on a machine where every bundle runs.
PROGRAM = """
import sys
from pathlib import Path
from edge.deploy.install import Options, install
from edge.deploy.releases import rollback
from tests.edge.deploy.made import FakeHost

if __name__ == "__main__":
    root, what = Path(sys.argv[1]), sys.argv[2]
    print("ready", flush=True)
    if what == "rollback":
        rollback(root)
    else:
        install(Path(what), root, Options(keep=1), host=FakeHost())
    print("done", flush=True)
"""


@pytest.mark.process
def test_killed_anywhere_the_box_serves_a_whole_bundle(tmp_path: Path) -> None:
    rng, shop, program = random.Random(SEED), Shop(tmp_path), tmp_path / "program.py"
    program.write_text(PROGRAM)

    def command(what: Path | str) -> list[str]:
        return [sys.executable, str(program), str(shop.root), str(what)]

    seconds: dict[str, float] = {}
    for version in (1, 2):
        seconds["install"] = timed(command(large(shop, version)))
    seconds["rollback"] = timed(command("rollback"))
    assert check_box(shop.root, ["1.0.0"])
    killed, installs, now, version = 0, 0, "1.0.0", 3
    other = "2.0.0"
    for point in range(POINTS):
        kind = "rollback" if point % 4 == 3 else "install"
        if kind == "rollback":  # between two that are known
            assert run(command(large(shop, version))) == ["ready", "done"]
            now, other, version = f"{version}.0.0", now, version + 1
        what: Path | str = "rollback" if kind == "rollback" else large(shop, version)
        new = other if kind == "rollback" else f"{version}.0.0"
        killed += kill_at(command(what), rng.uniform(0, seconds[kind]))
        installs += kind == "install"
        found = check_box(shop.root, [now, new])
        if found == new:
            now = new
        if kind == "install":
            version += 1
        if point % 10 == 9:
            print(f"{point + 1} of {POINTS} points, {killed} while it ran", file=sys.stderr)
    assert killed >= POINTS // 2, "the process was too quick to be killed: the test says little"
    assert run(command(large(shop, version))) == ["ready", "done"]
    check_box(shop.root, [f"{version}.0.0"])
    check_clean(shop.root)
    if report := os.environ.get("EDGE_KILL_REPORT"):
        figures = {"killed_while_running": killed, "installs": installs, "rollbacks": POINTS - installs}
        figures |= {f"{kind}_sec": round(value, 3) for kind, value in seconds.items()}  # type: ignore[dict-item]
        Path(report).write_text(json.dumps(figures), encoding="utf-8")


def large(shop: Shop, version: int) -> Path:
    """A signed archive that takes a while to write."""
    path, folder = shop.folder / f"{version}.edge", shop.folder / f"bundle{version}"
    if path.exists():
        return path
    shop.bundle(version)
    (folder / "model" / "model.onnx.data").write_bytes(random.Random(version).randbytes(LARGE_BYTES))
    write_seal(folder, dataclasses.replace(manifest_of(folder), version=f"{version}.0.0"))
    pack(folder, path)
    add_signature(path, shop.key, version, 1795428000.0)  # the clock of FakeHost
    shutil.rmtree(folder)
    return path


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(command: list[str]) -> list[str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())
    return done.stdout.split()


def timed(command: list[str]) -> float:
    """Run to the end; seconds from its readiness on."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        started = time.monotonic()
        assert process.stdout.readline() == "done\n"
        return time.monotonic() - started


def kill_at(command: list[str], delay_sec: float) -> bool:
    """Start, and kill after the delay; whether it was still at work."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(delay_sec)
    process.kill()
    return "done" not in process.communicate()[0]


def permitted(*unshare: str) -> bool:
    program = shutil.which("unshare")
    return program is not None and subprocess.run([program, *unshare, "true"], capture_output=True).returncode == 0


def edge(*call: str | Path, home: Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "edge", *map(str, call)]
    variables = environment(EDGE_HOME=str(home))
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=280)


def answers(home: Path, before: tuple[str, ...] = ()) -> dict[str, object]:
    asked = edge("ask", "How long is the reset button held?", "--json", home=home, before=before)
    assert asked.returncode in (0, 3), asked.stderr
    found: dict[str, object] = json.loads(asked.stdout)
    return found


@pytest.mark.process
@pytest.mark.model
@pytest.mark.skipif(not permitted("-rn"), reason="network namespaces are not permitted here")
def test_from_a_stick_without_any_network(sample_home: Path, tmp_path: Path) -> None:
    """The real bundle: pack, sign, install, ask, install the next version, ask, go back. No interface is up."""
    offline, home, bundle = ("unshare", "-rn"), tmp_path / "home", (sample_home / "bundle").resolve()
    home.mkdir()
    shutil.copy(sample_home / "index.db", home)
    interfaces = subprocess.run([*offline, "cat", "/proc/net/route"], capture_output=True, text=True, check=True)
    assert len(interfaces.stdout.splitlines()) <= 1  # not even a route to itself
    second = tmp_path / "second"
    shutil.copytree(bundle, second, copy_function=os.link)
    for name in ("manifest.yaml", "manifest.yaml.sha256"):
        (second / name).unlink()
    write_seal(second, dataclasses.replace(load(bundle).manifest, version="9.9.9"))
    generate(tmp_path / "key", "stick", time.time() - 60)
    shutil.copy(tmp_path / "key.trust.yaml", home / "trust.yaml")
    (tmp_path / "probe.yaml").write_text(
        "questions:\n- question: What is the capital of France?\n  contains: [Paris]\nmax_tokens: 16\n"
    )
    targets = []
    for number, folder in enumerate((bundle, second), 1):
        file = tmp_path / f"{number}.edge"
        steps: list[tuple[str | Path, ...]] = [
            ("bundle", "pack", folder, "-o", file, "--probe", tmp_path / "probe.yaml"),
            ("bundle", "sign", file, "--key", tmp_path / "key", "--release", str(number)),
            ("bundle", "verify", file),
            ("deploy", "install", file),
        ]
        for step in steps:
            done = edge(*step, home=home, before=offline)
            assert done.returncode == 0, done.stderr
        file.unlink()
        targets.append(served(home))
        answers(home, offline)
    assert "contains" in (home / "releases" / Path(str(targets[0])).parts[1] / "probe.yaml").read_text()
    assert load(home / "current").manifest.version == "9.9.9"
    assert edge("rollback", home=home, before=offline).returncode == 0
    assert served(home) == targets[0]
    assert load(home / "current").manifest.version == load(bundle).manifest.version
    answers(home, offline)
    listed = json.loads(edge("releases", "--verify", "--json", home=home, before=offline).stdout)["releases"]
    assert [(one["release"], one["is_current"]) for one in listed] == [(1, True), (2, False)]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("questions:\n- question: What is the capital of France?\n  contains: [Timbuktu]\n")
    before = sorted((home / "releases").iterdir())
    assert edge("bundle", "pack", bundle, "-o", tmp_path / "3.edge", "--probe", wrong, home=home).returncode == 0
    refused = edge("deploy", "install", tmp_path / "3.edge", "--allow-unsigned", home=home, before=offline)
    assert refused.returncode == 1
    assert "without 'Timbuktu'. The box serves release" in refused.stderr
    small = edge("deploy", "install", tmp_path / "3.edge", "--allow-unsigned", "--memory-budget", "64MiB", home=home)
    assert "memory budget of 64.0 MiB" in small.stderr
    assert (small.returncode, sorted((home / "releases").iterdir())) == (1, before)


@pytest.mark.process
@pytest.mark.skipif(not permitted("-rm"), reason="mount namespaces are not permitted here")
def test_on_a_disk_that_is_read_only(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.install(shop.archive(1))
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    before = ("unshare", "-rm", "sh", "-c", script, "sh", str(shop.root))
    calls = (("deploy", "install", str(shop.archive(2)), "--allow-unsigned"), ("rollback",), ("releases", "--prune"))
    for call in calls:
        done = edge(*call, home=shop.root, before=before)
        assert done.returncode == 1
        assert "the disk is read-only: mount it writable" in done.stderr
        assert "The box serves release" in done.stderr
    assert edge("deploy", "status", home=shop.root, before=before).returncode == 0
    check_box(shop.root, ["1.0.0"])
