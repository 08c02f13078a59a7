"""A real OCI registry (Debian's docker-registry) on a free port of 127.0.0.1, for demonstrations and tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAM = shutil.which("docker-registry")

_CONFIG = """
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Registry:
    """with Registry(folder) as registry: registry.host is its name, without TLS and without credentials."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port = int(one.getsockname()[1])
        self.host = f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        assert PROGRAM is not None, "there is no docker-registry: install Debian's package of that name"
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "registry.yml"
        config.write_text(_CONFIG.format(folder=self._folder / "data", port=self._port))
        with (self._folder / "registry.log").open("wb") as log:
            self._process = subprocess.Popen([PROGRAM, "serve", str(config)], stdout=log, stderr=log)
        until = time.monotonic() + 20
        while True:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the registry did not start: {(self._folder / 'registry.log').read_text()}")
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
