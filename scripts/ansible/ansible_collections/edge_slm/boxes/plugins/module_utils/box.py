"""What the modules share: running `edge` on the box, and reading what it says."""

from __future__ import annotations

import json
import time
from pathlib import Path

OPTIONS = {
    "edge": {"type": "list", "elements": "str", "default": ["edge"]},
    "home": {"type": "path", "required": True},
}


class Box:
    """A box's folder, and the command that works on it."""

    def __init__(self, module):
        self.module = module
        self.home = module.params["home"]
        self.environment = {"EDGE_HOME": self.home}

    def call(self, *arguments):
        """Run `edge ARGUMENTS --json`; returns (exit code, the object that it printed or None, what it said)."""
        command = [*self.module.params["edge"], *arguments, "--json"]
        code, out, err = self.module.run_command(command, environ_update=self.environment)
        try:
            found = json.loads(out) if out.strip() else None
        except ValueError:
            found = None
        return code, found, (err.strip() or out.strip())

    def must(self, *arguments):
        """As `call`, but a failure ends the module with what `edge` said."""
        code, found, said = self.call(*arguments)
        if code != 0 or found is None:
            self.module.fail_json(msg=f"edge {' '.join(arguments)}: {said or f'exit code {code}'}")
        return found

    def status(self):
        return self.must("deploy", "status")

    def rollbacks(self):
        """What the daemon wrote down of going back by itself, the latest last."""
        try:
            lines = (Path(self.home) / "daemon" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        events = [json.loads(line) for line in lines if line.strip()]
        return [event for event in events if event.get("event") == "rolled_back"]


def release_in(target):
    """The release in what `current` points to, e.g. releases/DIGEST/bundle; None where it is none."""
    parts = (target or "").split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "releases" else None


def timed(function, *arguments):
    """(seconds, what the function returned)"""
    started = time.monotonic()
    found = function(*arguments)
    return round(time.monotonic() - started, 2), found
