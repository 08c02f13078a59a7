"""What tests of a real daemon share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _daemon import Daemon, Reply

QUESTION = "Which port does the web interface use?"
STORY = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and her dog."}]
IDLE_RSS_BYTES = 45_000_000


def configure(environment: dict[str, str], **server: Any) -> None:
    text = json.dumps({"server": server})  # JSON is YAML
    (Path(environment["EDGE_HOME"]) / "config.yaml").write_text(text)


def chat(daemon: Daemon, text: str, model: str = "edge+rag", **more: Any) -> Any:
    asked = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return daemon.call("POST", "/v1/chat/completions", asked)


def eventually(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def events_named(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log if line.get("event") == name]


def put(daemon: Daemon, name: str, text: bytes, **headers: str) -> None:
    daemon.call("PUT", f"/v1/index/documents/{name}", text, headers)

    def is_ready() -> bool:
        found = daemon.call("GET", f"/v1/index/documents/{name}", None, headers)
        assert found["status"] != "failed", found
        return bool(found["status"] == "ready")

    eventually(is_ready)


def daemon_ready(daemon: Daemon) -> bool:
    try:
        return bool(daemon.call("GET", "/readyz")["ready"])
    except Reply as reply:
        assert reply.status == 503
        return False
