"""Which file of a box's folder holds the index of a bundle.

`index.db`, until a bundle with another embedder comes. The index that is made for that one lies beside it, under a name
that says of which embedder it is. So it follows from the bundle which index is used, and both change in one step.
"""

from __future__ import annotations

import re
from pathlib import Path

INDEX = "index.db"
_BESIDE = re.compile(r"index-[0-9a-f]{16}\.db")
SIDES = ("", "-wal", "-shm")
"""What SQLite keeps beside a file, with the file itself."""


def index_of(folder: Path, fingerprint: str) -> Path:
    """The index to use with an embedder."""
    own = beside(folder, fingerprint)
    return own if own.exists() else folder / INDEX


def beside(folder: Path, fingerprint: str) -> Path:
    """Where an index of an embedder is made while another one is in use."""
    return folder / f"index-{fingerprint[:16]}.db"


def indexes(folder: Path) -> list[Path]:
    """Every index of a box."""
    return [path for path in sorted(folder.glob("index*.db")) if path.name == INDEX or _BESIDE.fullmatch(path.name)]
