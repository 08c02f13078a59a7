"""Processes that a benchmark starts: watched, timed from outside, and gone when it ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from edge.errors import EdgeError
from edge.memory import PeakSampler

_GRACE_SEC = 5.0
_TAIL_BYTES = 2000
# Dies with this process, even where that is killed, and becomes the command: the setting stays across exec, and a
# preexec_fn would do the same but may deadlock beside threads.
_LAUNCHER = """
import os, sys
from edge.process import die_with
die_with(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""

EDGE = (sys.executable, "-c", "from edge.cli import main; main()")
"""The command line, as the installed script starts it."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The most memory that a tree of processes took, in bytes, and its course."""

    rss_bytes: int  # the sum over the processes of what is resident
    private_bytes: int  # RssAnon: no file backs it
    file_bytes: int  # of mapped files, each page once, when private and mapped together were at their most
    series: tuple[tuple[float, int, int], ...] = field(default=(), repr=False)  # seconds, private, RSS


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, *, launcher: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, its output in `log`, ended with all its children when the block ends.

    :param launcher: let the kernel end it too when this process is killed; costs the start of a Python.
    :raises EdgeError: it cannot be started.
    """
    if launcher:
        command = [sys.executable, "-c", _LAUNCHER, str(os.getpid()), *command]
    with log.open("wb") as stream:
        process = _start(command, stdout=stream, stderr=subprocess.STDOUT)
    with ended(process):
        yield process


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process that leads a session, and its whole session, when the block ends."""
    try:
        yield
    finally:
        for sign, grace in ((signal.SIGTERM, _GRACE_SEC), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
                break
        with contextlib.suppress(ProcessLookupError):  # children that outlive their parent
            os.killpg(process.pid, signal.SIGKILL)


def watched(command: Sequence[str], interval_sec: float, timeout_sec: float, stdin: bytes = b"") -> Peaks:
    """Run a command to its end and watch the memory of its tree.

    :raises EdgeError: it fails, or does not end in time; shows the end of what it printed.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = _start(command, stdin=given, stdout=output, stderr=subprocess.STDOUT)
        with ended(process), PeakSampler(process.pid, interval_sec=interval_sec) as sampler:
            try:
                code = process.wait(timeout_sec)
            except subprocess.TimeoutExpired:
                raise EdgeError(f"{_name(command)} did not end within {timeout_sec:g} s") from None
        if code != 0:
            raise EdgeError(f"{_name(command)} failed with exit code {code}: {_tail(output)}")
    return peaks_of(sampler)


def peaks_of(sampler: PeakSampler) -> Peaks:
    """What a sampler has seen, once its block has ended.

    :raises EdgeError: the process ended before it was looked at.
    """
    rss = max((rss for _, _, rss in sampler.series), default=0)
    if rss == 0:
        raise EdgeError("a process ended before its memory was measured: lower memory.sample_interval_sec")
    return Peaks(rss, sampler.private_peak_bytes, sampler.peak.file_bytes, tuple(sampler.series))


def output_of(command: Sequence[str], timeout_sec: float) -> bytes:
    """What a command prints on stdout.

    :raises EdgeError: it fails, or does not end in time.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _start(command, stdout=output, stderr=errors)
        with ended(process):
            try:
                code = process.wait(timeout_sec)
            except subprocess.TimeoutExpired:
                raise EdgeError(f"{_name(command)} did not end within {timeout_sec:g} s") from None
        if code != 0:
            raise EdgeError(f"{_name(command)} failed with exit code {code}: {_tail(errors)}")
        output.seek(0)
        return output.read()


def first_output_sec(
    command: Sequence[str], timeout_sec: float, after: bytes = b"", environment: Mapping[str, str] | None = None
) -> float:
    """Seconds from starting a command to the first character that it writes to its terminal; then it is ended.

    :param after: count only what comes after this was written (a banner, the prompt as it is echoed).
    :raises EdgeError: it writes nothing like that; shows what it wrote.
    """
    terminal, child = pty.openpty()
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors, contextlib.closing(os.fdopen(terminal, "rb", buffering=0)) as screen:
        try:
            process = _start(command, stdin=subprocess.DEVNULL, stdout=child, stderr=errors, env=environment)
        finally:
            os.close(child)
        with ended(process):
            seen = b""
            while True:
                left = timeout_sec - (time.perf_counter() - started)
                piece = _read(screen, left) if left > 0 else b""
                seen += piece
                if after in seen and seen[seen.index(after) + len(after) :].strip():
                    return time.perf_counter() - started
                if not piece:
                    why = "ended without a token" if left > 0 and _ends(process) else "wrote no token"
                    shown = (seen or _tail(errors).encode())[-_TAIL_BYTES:].decode("utf-8", "replace")
                    raise EdgeError(f"{_name(command)} {why} within {timeout_sec:g} s: {' '.join(shown.split())}")


def evict(files: Sequence[Path]) -> None:
    """Ask the kernel to drop these files from its page cache: the next reader takes them from the disk."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)  # pages that were not written yet cannot be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def in_page_cache(files: Sequence[Path]) -> bool:
    """Whether a page in the middle of any of these files is in memory, or it cannot be told."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            if os.preadv(handle, [bytearray(1)], file.stat().st_size // 2, os.RWF_NOWAIT) == 1:
                return True
        except BlockingIOError:  # it would have to be read from the disk
            continue
        except OSError:  # this file system cannot say
            return True
        finally:
            os.close(handle)
    return False


def _start(
    command: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, start_new_session=True, close_fds=True
        )
    except OSError as error:
        raise EdgeError(f"{command[0]} cannot be started: {error.strerror or error}") from error


def _read(screen: IO[bytes], seconds: float) -> bytes:
    """What comes next on a terminal; empty at its end or when the time is over."""
    if not select.select([screen], [], [], seconds)[0]:
        return b""
    try:
        return screen.read(65536) or b""
    except OSError:  # the other end has closed
        return b""


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process that has closed its terminal is gone: the kernel closes that a moment before."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return process.returncode is not None


def _tail(output: IO[bytes]) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - _TAIL_BYTES))
    return " ".join(output.read().decode("utf-8", "replace").split()) or "it printed nothing"


def _name(command: Sequence[str]) -> str:
    return "edge" if tuple(command[: len(EDGE)]) == EDGE else Path(command[0]).name
