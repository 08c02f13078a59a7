"""A daemon's life: it starts, reloads, gives memory back, ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from _daemon import Daemon, Reply, tree

from edge.machine import status_bytes
from tests.process.daemons import (
    IDLE_RSS_BYTES,
    QUESTION,
    STORY,
    chat,
    configure,
    events_named,
    eventually,
)

pytestmark = [pytest.mark.model, pytest.mark.process]


def test_sigterm_lets_answers_end_and_keeps_what_was_accepted(environment: dict[str, str]) -> None:
    with Daemon(environment=environment) as daemon:
        chat(daemon, "Hi", "edge", max_tokens=1)
        stream = daemon.stream({"model": "edge", "max_tokens": 40, "temperature": 1.0, "seed": 1, "messages": STORY})
        next(stream)
        daemon.call("PUT", "/v1/index/documents/late.md", b"# Late\n\nThe ferry to Skarv leaves at 06:20.\n")
        daemon.process.send_signal(signal.SIGTERM)
        assert list(stream)[-1][1]["choices"][0]["finish_reason"] in ("length", "stop")
        assert daemon.process.wait(40) == 0
    with Daemon(environment=environment) as daemon:
        eventually(lambda: daemon.call("GET", "/v1/index/documents/late.md")["status"] == "ready")
        assert "06:20" in json.dumps(chat(daemon, "When does the ferry to Skarv leave?"))


def test_at_the_deadline_a_stream_gets_a_last_event(environment: dict[str, str]) -> None:
    configure(environment, drain_sec=1.0)
    with Daemon(environment=environment) as daemon:
        stream = daemon.stream({"model": "edge", "max_tokens": 1900, "temperature": 1.5, "seed": 3, "messages": STORY})
        next(stream)
        daemon.process.send_signal(signal.SIGTERM)
        last = list(stream)[-1][1]
        assert "ending" in last["error"]["message"] or last["choices"][0]["finish_reason"] == "stop"
        assert daemon.process.wait(20) == 0


def test_sighup_swaps_the_bundle_and_no_request_fails(environment: dict[str, str], sample_home: Path) -> None:
    home = Path(environment["EDGE_HOME"])
    with Daemon(environment=environment) as daemon:
        before = daemon.call("GET", "/v1/status")["bundle"]
        chat(daemon, "Hi", "edge", max_tokens=1)
        other = home / "other"
        shutil.copytree(sample_home / "bundle", other, symlinks=False)
        manifest = other / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace("version: 1.0.0", "version: 1.0.1"))
        _sign(other)
        failures: list[str] = []
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                try:
                    chat(daemon, "Hi", "edge", max_tokens=3)
                except (Reply, OSError) as error:
                    failures.append(str(error))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        (home / "current").symlink_to(other)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: bool(events_named(daemon, "reloaded")), 60)
        time.sleep(1.0)
        is_over.set()
        for client in clients:
            client.join(60)
        assert failures == []
        assert daemon.call("GET", "/v1/status")["bundle"] != before


def _sign(bundle: Path) -> None:
    """The digest beside a manifest that was changed."""
    import hashlib

    digest = hashlib.sha256((bundle / "manifest.yaml").read_bytes()).hexdigest()
    (bundle / "manifest.yaml.sha256").write_text(f"{digest}  manifest.yaml\n")


def test_a_reload_that_cannot_be_done_changes_nothing(environment: dict[str, str]) -> None:
    with Daemon(environment=environment) as daemon:
        (Path(environment["EDGE_HOME"]) / "config.yaml").write_text("server: {nonsense: 1}")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: bool(events_named(daemon, "reload_failed")))
        assert "nonsense" in events_named(daemon, "reload_failed")[0]["error"]
        assert chat(daemon, "Hi", "edge", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_the_model_s_memory_goes_back_when_nobody_asks(environment: dict[str, str]) -> None:
    configure(environment, keep_alive_sec=0.5)
    with Daemon(environment=environment) as daemon:
        chat(daemon, QUESTION)
        assert len(tree(daemon.pid)) >= 3
        eventually(lambda: len(tree(daemon.pid)) == 1, 15)
        assert status_bytes("VmRSS", daemon.pid) < IDLE_RSS_BYTES
        assert chat(daemon, QUESTION)["choices"][0]["message"]["annotations"]


def test_two_daemons_on_one_index(own_daemon: Daemon, environment: dict[str, str]) -> None:
    call = [sys.executable, "-m", "edge", "serve", "--listen", "127.0.0.1:0"]
    second = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "another daemon serves" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--listen", "0.0.0.0:0"], 1, "can be reached from other machines"),
        (["--listen", "nonsense"], 2, "HOST:PORT"),
        (["--listen", "203.0.113.1:1", "--insecure"], 1, "cannot listen there"),
        (["--listen", "unix:/proc/nowhere/socket"], 1, "cannot listen there"),
        (["--bundle", "/nowhere"], 1, "nowhere"),
        (["--state", "/proc/nowhere"], 1, "--state"),
    ],
)
def test_a_start_that_cannot_be_is_told(
    environment: dict[str, str], arguments: list[str], code: int, text: str
) -> None:
    call = [sys.executable, "-m", "edge", "serve", *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
