"""The box's process: works on many requests at once for `edge.server.backend`.

Run as `python -m edge.server.child SETTINGS`, a JSON object. It ends when the daemon does, or closes the wire.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edge.engine.channel import Channel
from edge.process import die_with
from edge.server.work import BESIDE, Work


def main(settings: dict[str, Any]) -> None:
    """Serve until the wire closes."""
    die_with(settings["parent"])
    channel = Channel(socket.socket(fileno=settings["wire"]))
    wire = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with wire:
            try:
                channel.send(message)
            except OSError:
                os._exit(0)  # the daemon is gone, and so is whoever asked

    work = Work(settings, lambda state: send({"state": state}))
    with ThreadPoolExecutor(work.sessions + BESIDE, "request") as pool:
        try:
            while (request := channel.receive()) is not None:
                if request["do"] == "cancel":
                    work.cancel(request["id"])
                else:
                    work.expect(request["id"])
                    pool.submit(work.serve, request, send)
        except EOFError:
            work.close()
            os._exit(0)  # requests that still run have nobody to answer to


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
