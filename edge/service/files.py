"""The files of an installation: written, compared and removed. Only what `edge service install` wrote is touched."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.errors import EdgeError, UsageError
from edge.files import write_atomic
from edge.service.units import SERVICE, SOCKET, SYSUSERS

State = Literal["installed", "changed", "foreign", "missing"]
"""changed: by hand, after we wrote it. foreign: somebody else's."""
_MARK = re.compile(r"# Written by `edge service install`; sha256 ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Place:
    """One file of an installation."""

    path: Path
    state: State


def look(unit_dir: Path, sysusers_dir: Path) -> list[Place]:
    """What is there now."""
    paths = [unit_dir / SERVICE, unit_dir / SOCKET, sysusers_dir / SYSUSERS]
    return [Place(path, _state(path)) for path in paths]


def install(texts: dict[str, str], unit_dir: Path, sysusers_dir: Path, *, force: bool = False) -> list[Path]:
    """Write the files that are missing or differ; returns those. All of them, or none where one is refused.

    :param force: also over what was changed by hand; never over what is somebody else's.
    :raises UsageError: a file is somebody else's, or was changed by hand.
    :raises EdgeError: a folder cannot be written to.
    """
    places = look(unit_dir, sysusers_dir)
    wanted = {place.path: marked(texts[place.path.name]) for place in places}
    _refuse_foreign(places)
    changed = [
        place.path for place in places if place.state == "changed" and _content(place.path) != wanted[place.path]
    ]
    if changed and not force:
        raise UsageError(
            f"{_listed(changed)} was changed by hand: move the changes to a drop-in "
            f"(`systemctl edit {changed[0].name}`) and give --force"
        )
    written = [path for path, text in wanted.items() if _content(path) != text]
    for path in written:
        try:
            write_atomic(path, wanted[path])
        except OSError as error:
            raise EdgeError(f"{path}: cannot be written: {error.strerror}; run this with sudo") from None
    return written


def uninstall(unit_dir: Path, sysusers_dir: Path) -> list[Path]:
    """Remove what `install` wrote; returns that. All of it, or nothing where one is refused.

    :raises UsageError: a file is somebody else's.
    :raises EdgeError: a folder cannot be written to.
    """
    places = look(unit_dir, sysusers_dir)
    _refuse_foreign(places)
    ours = [place.path for place in places if place.state != "missing"]
    for path in ours:
        try:
            path.unlink()
        except OSError as error:
            raise EdgeError(f"{path}: cannot be removed: {error.strerror}; run this with sudo") from None
    return ours


def marked(text: str) -> str:
    """A file's text under the line by which it is known as ours, and as unchanged."""
    return f"# Written by `edge service install`; sha256 {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _state(path: Path) -> State:
    content = _content(path)
    if content is None:
        return "missing"
    mark = _MARK.match(content)
    if mark is None or path.is_symlink():
        return "foreign"
    return "installed" if marked(content[mark.end() :]) == content else "changed"


def _content(path: Path) -> str | None:
    """A file's text; "" where it is none, and None where there is nothing."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "" if path.is_symlink() else None
    except (UnicodeDecodeError, IsADirectoryError):
        return ""
    except OSError as error:
        raise EdgeError(f"{path}: cannot be read: {error.strerror}; run this with sudo") from None


def _refuse_foreign(places: list[Place]) -> None:
    foreign = [place.path for place in places if place.state == "foreign"]
    if foreign:
        raise UsageError(
            f"{_listed(foreign)} was not written by `edge service install`: move it away, nothing was done"
        )


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
