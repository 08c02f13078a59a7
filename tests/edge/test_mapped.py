"""Advice to the kernel about mapped files: pages not in use leave the page cache, and what was lost comes back."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.machine import status_bytes
from edge.mapped import USED, MappedFiles, let_go, mapped_files, read_used

MIB = 2**20
SIZE = 24 * MIB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "weights").open("wb") as stream:
        stream.write(os.urandom(SIZE))
        os.fsync(stream.fileno())
    return tmp_path / "model"


@pytest.fixture
def half(folder: Path) -> Iterator[mmap.mmap]:
    """The first half of the file, mapped and read."""
    with (folder / "weights").open("rb") as stream:
        stream.read()
        with mmap.mmap(stream.fileno(), SIZE // 2, access=mmap.ACCESS_READ) as mapped:
            assert sum(mapped[::4096])
            yield mapped


def cached_bytes(path: Path) -> int:
    """Bytes of a file that are in the page cache (mincore(2))."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, flags=mmap.MAP_PRIVATE) as whole:
        view = (ctypes.c_char * SIZE).from_buffer(whole)
        pages = (ctypes.c_ubyte * (SIZE // 4096))()
        assert ctypes.CDLL(None).mincore(ctypes.byref(view), ctypes.c_size_t(SIZE), pages) == 0
        del view
        return sum(page & 1 for page in pages) * 4096


def test_what_was_read_and_is_not_mapped_leaves_the_cache(folder: Path, half: mmap.mmap) -> None:
    assert cached_bytes(folder / "weights") == SIZE
    MappedFiles(folder).settle(tight=True)
    left = cached_bytes(folder / "weights")
    assert SIZE // 2 <= left < SIZE * 0.6


def test_where_there_is_room_the_page_cache_keeps_it_all(folder: Path, half: mmap.mmap) -> None:
    MappedFiles(folder).settle(tight=False)
    assert cached_bytes(folder / "weights") == SIZE


def test_what_is_used_is_mapped_at_once_and_the_rest_is_not(folder: Path, half: mmap.mmap) -> None:
    with (
        (folder / "weights").open("rb") as stream,
        mmap.mmap(stream.fileno(), SIZE // 4, access=mmap.ACCESS_READ, offset=SIZE * 3 // 4) as table,
    ):
        files = MappedFiles(folder)
        assert sum(half[::4096]) + sum(table[::4096])
        files.forget()
        assert files.used() == {}
        assert sum(half[::4096]) + sum(table[: SIZE // 16 : 4096])  # the second as a table of which some rows are read
        used = files.used()
        assert used == {"weights": [(0, SIZE // 2)]}
        (folder / USED).write_text(json.dumps(used))

        before = status_bytes("RssFile")
        again = MappedFiles(folder, read_used(folder))
        again.settle(tight=False)
        assert before - status_bytes("RssFile") == pytest.approx(SIZE // 4, abs=MIB)  # the table alone was let go


@pytest.mark.parametrize("content", ["", "[]", '{"weights": 3}', '{"weights": [["a", 2]]}'])
def test_a_damaged_note_of_what_is_used_is_none(folder: Path, content: str) -> None:
    (folder / USED).write_text(content)
    assert read_used(folder) == {}
    assert read_used(folder / "nowhere") == {}


def test_a_page_that_is_missed_is_read_alone(folder: Path, half: mmap.mmap) -> None:
    MappedFiles(folder).settle(tight=True)
    flags = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            name = line.split(maxsplit=5)[-1]
        elif line.startswith("VmFlags:"):
            flags[name] = line.split()[1:]
    assert "rr" in flags[str(folder / "weights")]  # random read, proc(5)


def test_links_are_followed_as_the_kernel_names_files(folder: Path, tmp_path: Path, half: mmap.mmap) -> None:
    (tmp_path / "link").symlink_to(folder)
    MappedFiles(tmp_path / "link").settle(tight=True)
    assert cached_bytes(folder / "weights") < SIZE * 0.6


def test_what_the_kernel_took_is_asked_for_again(
    folder: Path, half: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = MappedFiles(folder)
    advice: list[int] = []
    monkeypatch.setattr(files, "_advise", advice.append)
    resident = [100 * MIB, 96 * MIB, 90 * MIB]
    monkeypatch.setattr("edge.mapped.status_bytes", lambda key: resident.pop(0))
    files.settle(tight=True)
    files.revive()
    assert advice == [1]  # MADV_RANDOM; little was lost
    files.revive()
    assert advice == [1, 3]  # MADV_WILLNEED


def test_where_memory_is_tight_it_comes_back_in_large_pieces(
    folder: Path, half: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping was told to read pages alone, so the file is read first."""
    files = MappedFiles(folder, {"weights": [(0, SIZE // 2)]})
    files.settle(tight=True)
    half.madvise(mmap.MADV_DONTNEED)
    let_go([str(folder / "weights")])
    assert cached_bytes(folder / "weights") < SIZE // 8
    read: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, start, length, advice: read.append(advice))
    files.revive()
    assert read == [os.POSIX_FADV_WILLNEED]
    assert SIZE // 2 <= cached_bytes(folder / "weights") < SIZE * 0.6


def test_files_that_are_mapped_are_named_and_kept_and_others_are_let_go(folder: Path, half: mmap.mmap) -> None:
    assert str(folder / "weights") in mapped_files()
    let_go([str(folder / "weights"), str(folder / "nowhere")])
    assert SIZE // 2 <= cached_bytes(folder / "weights") < SIZE * 0.6


def test_a_folder_of_which_nothing_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    files = MappedFiles(tmp_path)
    files.settle(tight=True)
    files.revive()
