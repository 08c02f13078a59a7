"""A daemon answers while the index for a release with another embedder is made, killed on the way, and then from it.

And a delta that is applied under a daemon is answered from at once.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from _daemon import Daemon, tree  # noqa: E402

from edge import bundle as bundles  # noqa: E402
from edge.bundle import Manifest, load  # noqa: E402
from edge.deploy.delta import Options as DeltaOptions  # noqa: E402
from edge.deploy.delta import apply, pack  # noqa: E402
from edge.deploy.install import Options, install  # noqa: E402
from edge.deploy.links import waiting  # noqa: E402
from edge.deploy.pack import pack as pack_bundle  # noqa: E402
from edge.server.lock import reload_daemon  # noqa: E402
from edge.store.chunks import Store  # noqa: E402
from tests.edge.deploy.made import FakeHost  # noqa: E402
from tests.fakes import write_seal  # noqa: E402

QUESTION = {"query": "How long is the reset button held?"}


class AnyHost(FakeHost):
    """A machine that takes the real bundle without a trial: what the daemon does with it is what is looked at here."""

    def admit(self, manifest: Manifest, digest: str, model_config: bytes) -> None:
        pass


@pytest.mark.model
@pytest.mark.process
def test_another_embedder_under_a_daemon(sample_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "bundle").symlink_to((sample_home / "bundle").resolve())
    shutil.copy(sample_home / "index.db", home)
    archive, fingerprint = other_embedder((sample_home / "bundle").resolve(), tmp_path)
    _delta(home, tmp_path / "x.delta")
    with Daemon(environment={**os.environ, "EDGE_HOME": str(home)}) as daemon:

        def told(event: str) -> list[dict[str, object]]:
            return [line for line in daemon.log if line.get("event") == event]

        def found() -> list[str]:
            return [hit["document"] for hit in daemon.call("POST", "/v1/search", QUESTION)["data"]]

        before, bundle = found(), daemon.call("GET", "/v1/status")["bundle"]
        with Store.open(home / "index.db") as store:
            removed = apply(tmp_path / "x.delta", store, home, DeltaOptions(allow_unsigned=True)).applied.removed
        assert removed == 1
        assert before[0] not in found(), "the delta is answered from at once"
        daemon.call("PUT", "/v1/index/documents/own.txt", b"The zebra crossing lies behind the mill.")
        eventually(lambda: daemon.call("GET", "/v1/index/documents/own.txt")["status"] == "ready")
        assert install(archive, home, Options(allow_unsigned=True), host=AnyHost()).waits
        archive.unlink()
        assert reload_daemon(home / "index.db")
        killed = False
        answered = 0
        until = time.monotonic() + 120
        while not told("index_made"):
            assert time.monotonic() < until, daemon.log[-5:]
            assert found()
            answered += 1
            killed = killed or _kill_slice(daemon.pid)
        assert killed, "no slice was seen"
        assert answered >= 3
        eventually(lambda: daemon.call("GET", "/v1/status")["bundle"] != bundle)
        assert found()
        hits = daemon.call("POST", "/v1/search", {"query": "zebra crossing"})["data"]
        assert hits[0]["name"] == "own.txt"
        assert not told("index_failed") or killed
    assert waiting(home) is None
    assert load((home / "current").resolve()).manifest.embedder.fingerprint == fingerprint
    (own,) = home.glob("index-*.db")
    with Store.open(own) as new, Store.open(home / "index.db") as old:
        assert new.identity.embedder == fingerprint != old.identity.embedder
        assert new.known() == old.known()


def other_embedder(bundle: Path, folder: Path) -> tuple[Path, str]:
    """The bundle with an embedder whose vectors are others, packed; and that embedder's fingerprint."""
    second = folder / "second"
    shutil.copytree(bundle, second, copy_function=os.link)
    for name in (bundles.MANIFEST, bundles.SIDECAR):
        (second / name).unlink()
    manifest = load(bundle).manifest
    section = dataclasses.replace(manifest.embedder, document_prefix="passage: ")
    below = f"{section.path}/"
    hashes = {name.removeprefix(below): one.sha256 for name, one in manifest.files.items() if name.startswith(below)}
    section = dataclasses.replace(section, fingerprint=bundles.embedder_fingerprint(hashes, section))
    write_seal(second, dataclasses.replace(manifest, embedder=section, version="9.9.9"))
    pack_bundle(second, folder / "second.edge")
    shutil.rmtree(second)
    return folder / "second.edge", section.fingerprint


def _delta(home: Path, out: Path) -> None:
    """One that removes the document that answers the question."""
    from edge.box import Box
    from edge.config import EdgeConfig

    new = out.with_name("new.db")
    shutil.copy(home / "index.db", new)
    with Box(home / "bundle", new, EdgeConfig()) as box:
        best = box.retrieve(QUESTION["query"])[0].document
        box.store.remove([best])
    with Store.open(home / "index.db") as before, Store.open(new) as after:
        pack(before, after, out)


def _kill_slice(pid: int) -> bool:
    """Kill the process that makes the index, where it runs."""
    for one in tree(pid):
        try:
            is_slice = b'"root"' in Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        if is_slice:
            os.kill(one, signal.SIGKILL)
            return True
    return False


def eventually(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)
