"""Sizes in bytes as people write them: `256MiB`, `1.5 GB`, `268435456`."""

from __future__ import annotations

import re

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_UNIT = {unit.lower(): factor for unit, factor in UNITS.items()}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(value: str | int) -> int:
    """A size as bytes: a number, with a unit or in bytes. "256MiB" is 268435456, "256 MB" is 256000000.

    :raises ValueError: it is no size, or is not above 0; says what is accepted.
    """
    match = _SIZE.fullmatch(str(value))
    factor = _UNIT.get(match[2].lower()) if match else None
    if match is None or factor is None or (factor == 1 and "." in match[1]) or isinstance(value, bool):
        raise ValueError(
            f"{value!r} is no size: write a number and a unit, such as 256MiB; units are "
            "B, KiB, MiB, GiB (1024 each step) and kB, MB, GB (1000 each step); no unit means bytes"
        )
    size = int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
    if size < 1:
        raise ValueError(f"{value!r} is no size to work with: it must be above 0")
    return size


def mib(size: float) -> str:
    """Bytes in MiB with one decimal, the unit that plans are written in."""
    return f"{size / 2**20:.1f} MiB"
