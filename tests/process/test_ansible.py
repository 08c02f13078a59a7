"""The Ansible collection against three real SSH hosts.

The machine under the boxes is made up, so that a release takes no model; `scripts/deploy_demo` has real ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from _sshd import SSHD, Boxes  # noqa: E402

from tests.edge.deploy.made import Shop  # noqa: E402

PLAYBOOK = shutil.which("ansible-playbook", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(SSHD is None or PLAYBOOK is None, reason="needs openssh-server and ansible-core"),
]

RECAP, COUNT = re.compile(r"^(box\d)\s*: (.*)$", re.MULTILINE), re.compile(r"(\w+)=(\d+)")

# `edge` on a machine where every bundle runs, but for a box with a file named `too-small`.
PROGRAM = """
import os, sys
from pathlib import Path
import edge.deploy.host
from edge.cli import main
from edge.errors import DeployError
from tests.edge.deploy.made import FakeHost

def host(root, config, budget):
    too_large = DeployError("the memory budget does not hold it")
    return FakeHost(too_large=too_large if (root / "too-small").exists() else None)

edge.deploy.host.ThisHost = host
sys.exit(main())
"""


class Fleet:
    def __init__(self, boxes: Boxes, shop: Shop, folder: Path) -> None:
        self.boxes, self.shop, self.folder = boxes, shop, folder
        program = folder / "box_edge.py"
        program.write_text(PROGRAM)
        self.inventory = folder / "boxes.json"
        command = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(program)]
        self.inventory.write_text(json.dumps(boxes.inventory(sys.executable, command)))

    def play(self, playbook: str, *arguments: str, **variables: Any) -> tuple[int, dict[str, dict[str, int]], str]:
        """Exit code; of each box how many tasks changed, failed, ...; everything that was said."""
        assert PLAYBOOK is not None
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "scripts" / "ansible"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=20 -o ControlPath={self.folder}/%C",
            "ANSIBLE_TIMEOUT": "5",
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        call = [PLAYBOOK, "-i", str(self.inventory), f"edge_slm.boxes.{playbook}", *arguments]
        call += ["-e", json.dumps(variables)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120, check=False)
        said = done.stdout + done.stderr
        assert "PLAY RECAP" in said, said
        recap = RECAP.findall(said[said.index("PLAY RECAP") :])
        return done.returncode, {name: {k: int(v) for k, v in COUNT.findall(counts)} for name, counts in recap}, said

    def served(self) -> list[str | None]:
        """The version that each box serves."""
        found: list[str | None] = []
        for name in self.boxes.names:
            notice = self.boxes.home(name) / "current" / "NOTICE.md"
            found.append(notice.read_text().split()[-1] if notice.exists() else None)
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with Boxes(folder / "boxes", 3) as boxes:
        yield Fleet(boxes, Shop(folder), folder)


def archive(fleet: Fleet, version: int) -> dict[str, str]:
    return {
        "edge_archive": str(fleet.shop.archive(version)),
        "edge_trust_file": str(fleet.shop.root / "trust.yaml"),
    }


def test_a_fleet_from_its_first_release_to_a_failed_canary(fleet: Fleet) -> None:
    first = archive(fleet, 1)
    code, stats, said = fleet.play("roll_out", "--check", **first)
    assert code == 0, said
    assert fleet.served() == [None] * 3
    assert all(not any(fleet.boxes.home(name).iterdir()) for name in fleet.boxes.names), "--check wrote something"

    code, stats, said = fleet.play("roll_out", edge_serial=3, **first)
    assert (code, fleet.served()) == (0, ["1"] * 3), said
    code, stats, said = fleet.play("roll_out", edge_serial=3, **first)
    assert (code, [stats[name]["changed"] for name in fleet.boxes.names]) == (0, [0, 0, 0]), (
        "a second run changes nothing"
    )

    second = archive(fleet, 2)
    (fleet.boxes.home("box1") / "too-small").touch()
    code, stats, said = fleet.play("roll_out", **second)
    assert (code != 0, fleet.served()) == (True, ["1"] * 3), "the canary refused it, so nobody else was asked"
    assert "the memory budget does not hold it" in said
    assert stats["box1"]["failed"] == 1 and "box2" not in stats
    (fleet.boxes.home("box1") / "too-small").unlink()

    fleet.boxes.stop("box2")  # half-way: the canary has been done by then
    code, stats, said = fleet.play("roll_out", edge_serial=1, **second)
    assert (code != 0, fleet.served()) == (True, ["2", "1", "1"]), said
    assert stats["box2"]["unreachable"] == 1 and "box3" not in stats
    fleet.boxes.start("box2")
    code, stats, said = fleet.play("roll_out", edge_serial=3, **second)
    assert (code, fleet.served(), stats["box1"]["changed"]) == (0, ["2"] * 3, 0), said

    report = fleet.folder / "report.json"
    code, stats, said = fleet.play("report", edge_report=str(report))
    assert code == 0, said
    found = json.loads(report.read_text())
    assert [found[name]["release"] for name in fleet.boxes.names] == [2, 2, 2]
    assert [found[name]["rolled_back"] for name in fleet.boxes.names] == [None] * 3
    code, stats, said = fleet.play("roll_back", "--limit", "box1:box2")
    assert (code, fleet.served()) == (0, ["1", "1", "2"]), said
