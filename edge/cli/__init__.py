"""The command `edge`: one verb per module, each importing only what it needs when it runs."""

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit; interrupted while it is still being imported, too."""
    try:
        from edge.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
