"""What the reader and its parser process say to each other over pipes: framed messages.

    message = length of the header (4 bytes, big-endian) + header (JSON object) + parts
    header["parts"] = lengths of the binary parts that follow, in bytes

    reader -> parser   one hello {"parent", "memory_bytes", "max_file_bytes", "timeout_sec"}, then requests
                       {"path", "type", "language"}
    parser -> reader   {"ready": true}, then for each request {"documents": [...], "parts"} or {"error", "message"}

JSON and plain arrays, not pickle: what comes out of a parser that read a hostile file must not run code here.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from edge.types import Block, BlockKind

HEADER = struct.Struct(">I")
_KINDS: tuple[BlockKind, ...] = ("text", "heading", "row")
_NO_PAGE = 0


def pack(header: dict[str, Any], parts: Sequence[bytes] = ()) -> list[bytes]:
    """A message as pieces to be written one after the other."""
    body = json.dumps({**header, "parts": [len(part) for part in parts]}).encode()
    return [HEADER.pack(len(body)), body, *parts]


def send(stream: BinaryIO, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    for piece in pack(header, parts):
        stream.write(piece)
    stream.flush()


def receive(read: Callable[[int], bytes], max_bytes: int) -> tuple[dict[str, Any], list[bytes]]:
    """Read one message through `read`, which gives exactly as many bytes as it is asked for.

    :raises ValueError: longer than `max_bytes`, or no message.
    """
    (size,) = HEADER.unpack(read(HEADER.size))
    if size > max_bytes:
        raise ValueError(f"a header of {size} bytes")
    header = json.loads(read(size))
    sizes = header["parts"]
    if any(part < 0 for part in sizes) or sum(sizes) > max_bytes:
        raise ValueError(f"parts of {sum(sizes)} bytes")
    return header, [read(part) for part in sizes]


def pack_blocks(blocks: Sequence[Block]) -> tuple[list[list[str]], bytes]:
    """Blocks as (the distinct heading paths, an array of five uint64 per block); a table may have a million rows."""
    paths: dict[tuple[str, ...], int] = {}
    numbers = array("Q")
    for block in blocks:
        path = paths.setdefault(block.headings, len(paths))
        numbers.extend((block.start, block.end, _KINDS.index(block.kind), path, block.page or _NO_PAGE))
    return [list(path) for path in paths], numbers.tobytes()


def unpack_blocks(paths: list[list[str]], data: bytes) -> tuple[Block, ...]:
    """The inverse of `pack_blocks`."""
    headings = [tuple(path) for path in paths]
    numbers = array("Q")
    numbers.frombytes(data)
    fields = iter(numbers)
    return tuple(
        Block(start, end, _KINDS[kind], headings[path], page or None)
        for start, end, kind, path, page in zip(fields, fields, fields, fields, fields, strict=True)
    )
