"""The engine's process: serves one request after the other for `edge.engine.worker`.

Run as `python -m edge.engine.child SETTINGS`, a JSON object. It ends when its parent does, or closes the wire.
"""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge.engine.base import EngineOptions, Message, Sampling
from edge.engine.channel import Channel
from edge.engine.genai import GenaiEngine
from edge.errors import EdgeError
from edge.memory import release_heap
from edge.process import die_with


def main(settings: dict[str, Any]) -> None:
    """Serve until the wire closes."""
    die_with(settings["parent"])
    channel = Channel(socket.socket(fileno=settings["wire"]))
    engine: GenaiEngine | None = None
    try:
        while True:
            request = channel.receive()
            assert request is not None
            try:
                engine = engine or _engine(settings)
                _serve(engine, request, channel)
            except EdgeError as error:
                channel.send({"error": type(error).__name__, "message": str(error)})
    except (EOFError, BrokenPipeError):
        return


def _engine(settings: dict[str, Any]) -> GenaiEngine:
    options = EngineOptions(**settings["options"])
    adapters = {name: Path(path) for name, path in settings["adapters"].items()}
    engine = GenaiEngine(Path(settings["folder"]), settings["template"], settings["stop_tokens"], options, adapters)
    release_heap()  # reading the vocabulary leaves twice its size behind
    return engine


def _serve(engine: GenaiEngine, request: dict[str, Any], channel: Channel) -> None:
    match request["do"]:
        case "encode":
            channel.send({"token_ids": engine.encode(request["text"])})
        case "render":
            channel.send({"text": engine.render([Message(**turn) for turn in request["messages"]])})
        case "load":
            engine.load()
            release_heap()
            channel.send({"loaded": True})
        case "generate":
            _generate(engine, request, channel)
        case "cancel":  # it came after the end of the request it was meant for
            pass


def _generate(engine: GenaiEngine, request: dict[str, Any], channel: Channel) -> None:
    def is_cancelled() -> bool:
        channel.send({"alive": True})  # between the pieces of a long prompt there is no other sign of life
        return channel.receive(timeout_sec=0) is not None  # nothing but a cancel comes during a request

    sampling = Sampling(**request["sampling"])
    session = engine.start(request["token_ids"], sampling, is_cancelled, adapter=request["adapter"])
    for token in session:
        channel.send({"id": token.id, "text": token.text})
    channel.send({"stats": asdict(session.stats)})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
