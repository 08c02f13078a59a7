"""The commands as a person uses them; the machine is made up where a real bundle would be needed."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edge.cli.bundle import bundle
from edge.cli.deploy import deploy, releases, rollback
from edge.errors import DeployError, TrustError
from tests.edge.deploy.made import FakeHost, Shop


class HostNow(FakeHost):
    """With the clock of this machine, as the commands sign by it."""

    def now(self) -> float:
        import time

        return time.time()


def run(command: click.Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture
def home(edge_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("edge.deploy.host.ThisHost", lambda *_: HostNow())
    return edge_home


def test_from_a_folder_to_a_box_and_back(home: Path, shop: Shop, tmp_path: Path) -> None:
    key, first, second = tmp_path / "mine", tmp_path / "1.edge", tmp_path / "2.edge"
    assert "keep it off the boxes" in run(bundle, "keygen", key, "--name", "me").stdout
    (tmp_path / "mine.trust.yaml").rename(home / "trust.yaml")
    for number, out in enumerate((first, second), 1):
        assert "unsigned: `edge bundle sign` is next" in run(bundle, "pack", shop.bundle(number), "-o", out).stdout
        assert f"release {number}" in run(bundle, "sign", out, "--key", key, "--release", str(number)).stdout
    assert "signed by me" in run(bundle, "verify", first).stdout
    shown = run(bundle, "diff", first, second).stdout
    assert "~ bundle/NOTICE.md" in shown
    assert "kl_nats  0.01  ->  0.01\n" in shown
    assert "to send" in shown
    made = run(deploy, "install", first)
    assert "is served (signed by me, release 1)" in made.stdout
    assert "tried out: loaded in 0.1 s" in made.stdout
    assert made.stderr == ""  # there is no daemon to tell
    done = json.loads(run(deploy, "install", second, "--json").stdout)
    assert (done["verified"]["release"], done["smoke"]["answer_sec"]) == (2, [0.1])
    lines = run(releases).stdout.splitlines()
    assert [line.split()[1:4] for line in lines] == [["previous", "release", "1"], ["current", "release", "2"]]
    state = json.loads(run(deploy, "status", "--json").stdout)
    assert (state["served"], state["release"], state["trust"]) == (state["current"], 2, True)
    assert "is served" in run(rollback).stdout
    assert json.loads(run(deploy, "status", "--json").stdout)["current"] == state["previous"]
    assert len(json.loads(run(releases, "--verify", "--json").stdout)["releases"]) == 2
    out = tmp_path / "out"
    assert json.loads(run(bundle, "unpack", second, "-o", out, "--json").stdout)["bundle"] == done["bundle"]
    assert (out / "bundle" / "NOTICE.md").read_text() == "version 2\n"


def test_unsigned_is_refused_unless_told_otherwise(home: Path, shop: Shop) -> None:
    path = shop.unsigned(1)
    with pytest.raises(TrustError, match="no trust file"):
        run(bundle, "verify", path)
    with pytest.raises(TrustError, match=r"no trust file.*The box serves no bundle yet"):
        run(deploy, "install", path)
    assert "all as its table says" in run(bundle, "verify", path, "--allow-unsigned").stdout
    done = run(deploy, "install", path, "--allow-unsigned")
    assert "(not trusted)" in done.stdout
    assert "nobody vouches for it" in done.stderr


def test_another_folder_and_an_empty_box(home: Path, shop: Shop, tmp_path: Path) -> None:
    assert "no releases" in run(releases).stdout
    assert "serves    nothing yet" in run(deploy, "status").stdout
    root = tmp_path / "other"
    run(deploy, "install", shop.unsigned(1), "--allow-unsigned", "--root", root)
    assert (root / "current" / "NOTICE.md").read_text() == "version 1\n"
    assert not (home / "current").exists()
    run(deploy, "install", shop.unsigned(2), "--allow-unsigned", "--root", root)
    run(deploy, "install", shop.unsigned(3), "--allow-unsigned", "--root", root)
    assert "removed" in run(releases, "--prune", "0", "--root", root).stderr
    assert len(run(releases, "--root", root).stdout.splitlines()) == 2


def test_a_daemon_that_runs_is_told(home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Path] = []
    monkeypatch.setattr("edge.server.lock.reload_daemon", lambda index: told.append(index) or True)
    for version in (1, 2):
        assert "the daemon was told" in run(deploy, "install", shop.unsigned(version), "--allow-unsigned").stderr
    with pytest.raises(DeployError):
        run(deploy, "install", shop.folder / "none.edge")
    assert told == [home / "index.db"] * 2  # not where nothing changed
    assert "the daemon was told" in run(rollback).stderr
    assert len(told) == 3
