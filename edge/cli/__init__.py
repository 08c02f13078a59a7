"""The command `edge`: one verb per module, each importing only what it needs when it runs."""

from edge.cli.main import main

__all__ = ["main"]
