"""What scripts/deploy_demo does once everything is set up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from _daemon import Daemon, engine_pid
from _registry import Registry
from _sshd import Boxes

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
EDGE = str(BIN / "edge")
PROBE = {"questions": [{"question": "What is the capital of France?"}], "max_tokens": 8}
QUESTIONS = ["How long does a firmware update take?", "What does the error code E503 mean?"]
WATCHED = 12  # questions after the release that goes bad: its daemon needs some to judge by


class Demo:
    def __init__(self, folder: Path, registry: Registry, boxes: Boxes) -> None:
        self.folder, self.registry, self.boxes = folder, registry, boxes
        self.steps: list[tuple[str, str, float]] = []  # what, bytes and boxes, seconds
        self.daemons: dict[str, Daemon] = {}

    def step(self, what: str, told: str, started: float) -> None:
        self.steps.append((what, told, time.monotonic() - started))
        print(f"    {told}; {self.steps[-1][2]:.1f} s", flush=True)

    # -- on the workstation -------------------------------------------------------------------------------------------

    def build(self, version: str, release: int) -> Path:
        """A version of the default bundle with the samples' index, packed and signed."""
        title(f"building {version}")
        started, out = time.monotonic(), self.folder / version
        recipe = yaml.safe_load((ROOT / "configs" / "optimize" / "cpu-int8.yaml").read_text())
        recipe["version"] = version
        if recipe["adapter"]:
            recipe["adapter"]["path"] = str(ROOT / "configs" / "optimize" / recipe["adapter"]["path"])
        path, archive, index = self.folder / "recipe.yaml", self.folder / f"{version}.edge", self.folder / "index.db"
        path.write_text(yaml.safe_dump(recipe))
        edge("optimize", "run", path, "--out", out)
        edge("ingest", ROOT / "samples" / "documents", "--bundle", out, "--index", index)
        (self.folder / "probe.yaml").write_text(yaml.safe_dump(PROBE))
        edge("bundle", "pack", out, "-o", archive, "--index", index, "--probe", self.folder / "probe.yaml")
        edge("bundle", "sign", archive, "--key", self.folder / "key", "--release", release)
        self.step(f"build {version}, from finished stages", f"{archive.stat().st_size / 2**20:.1f} MiB", started)
        return archive

    def push(self, archive: Path, version: str) -> None:
        title(f"pushing {version}")
        started = time.monotonic()
        done = json.loads(edge("bundle", "push", archive, self.reference(version), "--json"))
        moved = f"{mib(done['sent_bytes'])} sent, {mib(done['reused_bytes'])} were there"
        self.step(f"push {version}", moved, started)

    def reference(self, version: str) -> str:
        return f"{self.registry.host}/demo/support:{version}"

    # -- on the boxes -------------------------------------------------------------------------------------------------

    def serve(self, stack: ExitStack) -> None:
        """Each box's daemon."""
        for name in self.boxes.names:
            environment = {**os.environ, "EDGE_HOME": str(self.boxes.home(name)), "EDGE_CACHE": str(self.cache(name))}
            self.daemons[name] = stack.enter_context(Daemon(environment=environment))

    def cache(self, name: str) -> Path:
        return self.folder / f"{name}-cache"

    def play(self, playbook: str, **variables: Any) -> tuple[bool, str]:
        """Whether it went through, and what was said."""
        more: dict[str, dict[str, Any]] = {
            name: {"edge_command": ["env", f"EDGE_CACHE={self.cache(name)}", EDGE]} for name in self.boxes.names
        }
        for name, one in self.daemons.items():
            more[name]["edge_url"] = f"http://{one.host}:{one.port}"
        inventory = self.folder / "boxes.json"
        inventory.write_text(json.dumps(self.boxes.inventory(sys.executable, [EDGE], more)))
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "scripts" / "ansible"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        call = [BIN / "ansible-playbook", "-i", inventory, f"edge_slm.boxes.{playbook}", "-e", json.dumps(variables)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    def roll_out(self, what: str, version: str, **variables: Any) -> bool:
        title(what)
        started = time.monotonic()
        went, said = self.play(
            "roll_out",
            edge_source=self.reference(version),
            edge_trust_file=str(self.folder / "key.trust.yaml"),
            **variables,
        )
        for name, took in re.findall(r'ok: \[(\w+)\] => \{\s*"msg": "(.* from the registry)"', said):
            print(f"    {name}: {took}")
        for name, why in re.findall(r'fatal: \[(\w+)\]: .*?"msg": "(.*?)"', said):
            print(f"    {name} FAILED: {why}")
        self.step(what, ", ".join(f"{name} serves {self.served(name)}" for name in self.boxes.names), started)
        return went

    def served(self, name: str) -> str:
        manifest = self.boxes.home(name) / "current" / "manifest.yaml"
        return str(yaml.safe_load(manifest.read_text())["version"]) if manifest.exists() else "nothing"

    def spoil_when_served(self, name: str, version: str) -> threading.Thread:
        """As a disk that goes bad: once the box serves `version`, its model's files are damaged and its engine ends."""

        def run() -> None:
            until = time.monotonic() + 300
            while self.served(name) != version:
                if time.monotonic() > until:
                    return
                time.sleep(0.05)
            digest = str(self.daemons[name].call("GET", "/v1/status")["bundle"])
            folders = [(self.boxes.home(name) / "current").resolve(), self.cache(name) / "prepared" / digest]
            for file in (file for folder in folders for file in folder.rglob("model.onnx*")):
                if "embedder" not in file.parts:
                    file.unlink()
                    file.write_bytes(b"\0" * 100)
            if (engine := engine_pid(self.daemons[name].pid)) is not None:
                os.kill(engine, signal.SIGKILL)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def report(self) -> None:
        title("what the boxes say")
        path = self.folder / "report.json"
        self.play("report", edge_report=str(path))
        for name, found in sorted(json.loads(path.read_text()).items()):
            back = f"; went back by itself: {found['rolled_back']['reason']}" if found["rolled_back"] else ""
            needs = f"needs {mib(found['plan_bytes'])} of {mib(found['budget_bytes'])}"
            print(f"    {name}: release {found['release']}, serves {found['served'][:12]}; {needs}{back}")


def title(text: str) -> None:
    print(f"\033[1m==> {text}\033[0m", flush=True)


def edge(*arguments: object, home: Path | None = None) -> str:
    """Run a command of ours; its output.

    :raises SystemExit: it failed; what it said was printed.
    """
    environment = os.environ if home is None else {**os.environ, "EDGE_HOME": str(home)}
    call = [EDGE, *map(str, arguments)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(call)}\n{done.stdout}{done.stderr}")
    return done.stdout


def mib(count: int | None) -> str:
    count = count or 0
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def main() -> None:
    started = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-deploy-demo-")))
        boxes = stack.enter_context(Boxes(folder / "boxes", 3))
        registry = stack.enter_context(Registry(folder / "registry"))
        demo = Demo(folder, registry, boxes)
        edge("bundle", "keygen", folder / "key", "--name", "demo")
        for release, version in enumerate(("1.0.0", "1.1.0"), start=1):
            demo.push(demo.build(version, release), version)
        good = demo.roll_out("installing 1.0.0 on three boxes", "1.0.0", edge_serial=3)
        demo.serve(stack)
        good &= demo.roll_out("rolling 1.1.0 out, a canary first", "1.1.0", edge_questions=QUESTIONS)
        demo.push(demo.build("1.2.0", 3), "1.2.0")
        demo.spoil_when_served("box1", "1.2.0")
        bad = demo.roll_out(
            "rolling 1.2.0 out; the canary's disk goes bad", "1.2.0", edge_questions=QUESTIONS * (WATCHED // 2)
        )
        demo.report()
        title("in all")
        for what, told, seconds in demo.steps:
            print(f"    {what:<50} {seconds:6.1f} s  {told}")
        served = [demo.served(name) for name in boxes.names]
    print(f"Done in {time.monotonic() - started:.0f} s.")
    if not good or bad or served != ["1.1.0"] * 3:
        sys.exit(f"not as it should be: the boxes serve {', '.join(served)}")


if __name__ == "__main__":
    main()
