"""Files to Documents. Parsing runs in a process of its own, with a memory and a time limit (see child.py)."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from edge.config import IngestConfig
from edge.errors import DocumentError, DocumentTooLarge, ParserFailed, UnsupportedDocument, UsageError
from edge.ingest import wire
from edge.ingest.formats import TYPES, type_of
from edge.types import Document

_START_SEC = 60.0  # for the process to come up on a slow, busy box
_SLACK_BYTES = 64 * 2**20
_BYTES_PER_CHAR = 2 * (4 + 40)  # two characters per byte of file, each with a block in the worst case
_ERRORS = {"unsupported": UnsupportedDocument, "large": DocumentTooLarge, "document": DocumentError}


def discover(paths: Sequence[Path], skipped: list[Path] | None = None) -> Iterator[Path]:
    """The files to read: those named, and those in the named folders, sorted, each once.

    In folders, hidden files and folders and kinds of files without a reader are left out (the latter are added to
    `skipped`), and links are followed but never in a circle. A file named itself is given whatever its kind:
    `Reader.read` says what is wrong with it.

    :raises UsageError: a path does not exist, before anything is given.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise UsageError(f"{path}: no such file or folder")
    return _discover(paths, [] if skipped is None else skipped)


def _discover(paths: Sequence[Path], skipped: list[Path]) -> Iterator[Path]:
    seen: set[str] = set()
    for path in paths:
        for file in _files(path, skipped, set()) if path.is_dir() else [path]:
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                yield file


def _files(folder: Path, skipped: list[Path], above: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        skipped.append(folder)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry, skipped, above | {real})
        elif entry.is_file() and type_of(entry):
            yield entry
        else:
            skipped.append(entry)


class Reader:
    """Reads files, one after the other, through one parser process that is replaced when a file breaks it.

    Use it as a context manager, from one thread: the process ends with the thread that started it.
    """

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._process: _Parser | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the parser process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def pid(self) -> int | None:
        """The parser process's id; None before the first file and after a failure."""
        return self._process.pid if self._process is not None else None

    def read(self, path: Path, *, language: str | None = None, tags: tuple[str, ...] = ()) -> list[Document]:
        """The file as a Document; a database as one per table that has rows.

        `language` (ISO 639-1) wins over the configured one; with neither it is detected.

        :raises UnsupportedDocument: no reader for this ending, or the extra is not installed.
        :raises DocumentTooLarge: above `ingest.max_file_bytes`, as a file or as text.
        :raises ParserFailed: the parser crashed, hung, or went over its memory limit.
        :raises DocumentError: the file cannot be read or holds no text; the message names the file.
        :raises UsageError: `language` is no ISO 639-1 code.
        """
        source, kind = self._check(path)
        request = {"path": source, "type": kind, "language": self._language(language)}
        header, parts = self._ask(request, path)
        if error := header.get("error"):
            raise _ERRORS.get(str(error), DocumentError)(f"{path}: {header['message']}")
        return [
            Document(
                source=f"{source}#{entry['part']}" if entry["part"] else source,
                sha256=entry["sha256"],
                type=kind,
                title=entry["title"],
                text=parts[2 * index].decode(),
                blocks=wire.unpack_blocks(entry["paths"], parts[2 * index + 1]),
                language=entry["language"],
                date=entry["date"],
                tags=tags,
            )
            for index, entry in enumerate(header["documents"])
        ]

    def _check(self, path: Path) -> tuple[str, str]:
        """What can be told without opening the file: its absolute path and its type."""
        source = Path(os.path.abspath(path)).as_posix()  # noqa: PTH100  resolve() would follow links
        try:
            source.encode()
            status = path.stat()
        except UnicodeEncodeError:
            raise DocumentError(f"{source!r}: the name is not valid UTF-8: rename it") from None
        except OSError as error:
            raise DocumentError(f"{path}: cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"{path}: is not a file")
        kind = type_of(path)
        if kind is None:
            raise UnsupportedDocument(f"{path}: no reader for this kind of file; there is one for {' '.join(TYPES)}")
        if status.st_size > self._config.max_file_bytes:
            raise DocumentTooLarge(
                f"{path}: {status.st_size:,} bytes is above the limit of {self._config.max_file_bytes:,}: "
                "raise ingest.max_file_bytes or split the file"
            )
        if status.st_size == 0:
            raise DocumentError(f"{path}: the file is empty")
        return source, kind

    def _language(self, given: str | None) -> str | None:
        language = given or self._config.language
        if language == "auto":
            return None
        if not re.fullmatch(r"[a-z]{2}", language):
            raise UsageError(f"language {language!r} is no ISO 639-1 code such as en, de or no")
        return {"nb": "no", "nn": "no"}.get(language, language)

    def _ask(self, request: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[bytes]]:
        used = self._process is not None and self._process.alive()
        header, parts = self._exchange(request, path)
        if header.get("error") == "memory" and used:  # earlier files may have left the heap in pieces
            header, parts = self._exchange(request, path)
        if header.get("error") == "memory":
            raise ParserFailed(
                f"{path}: reading it takes more than {self._config.parser_memory_bytes:,} bytes of memory: "
                "raise ingest.parser_memory_bytes or split the file"
            )
        return header, parts

    def _exchange(self, request: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[bytes]]:
        if self._process is None or not self._process.alive():
            self.close()
            self._process = _Parser(self._config)
        try:
            answer = self._process.ask(request, self._config.parser_timeout_sec)
        except _Broken as broken:
            self.close()
            raise ParserFailed(f"{path}: the parser {broken}") from None
        except BaseException:  # Ctrl-C: an answer that comes late must not be taken for the next file's
            self.close()
            raise
        if answer[0].get("error") == "memory":
            self.close()
        return answer


class _Broken(Exception):
    """The parser process gave no answer; the text says why, to stand after "the parser"."""


class _Parser:
    """One parser process and its pipes."""

    def __init__(self, config: IngestConfig) -> None:
        self._max_bytes = _SLACK_BYTES + _BYTES_PER_CHAR * config.max_file_bytes
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "edge.ingest.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd="/",
            env=_environment(),
            process_group=0,  # Ctrl-C is for the reader, which then ends this process
        )
        hello = {
            "parent": os.getpid(),
            "memory_bytes": config.parser_memory_bytes,
            "max_file_bytes": config.max_file_bytes,
            "timeout_sec": config.parser_timeout_sec,
        }
        try:
            self.ask(hello, _START_SEC)
        except _Broken as broken:
            self._log.seek(0)
            log = self._log.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
            self.kill()
            raise ParserFailed(f"the parser process does not start: it {broken}; {log}") from None
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it had not read yet cannot be flushed to it any more
                    stream.close()

    def ask(self, message: dict[str, Any], timeout_sec: float) -> tuple[dict[str, Any], list[bytes]]:
        """Send a message and wait for its answer.

        :raises _Broken: no answer within the time, the process ended, or what it says is no answer.
        """
        deadline = time.monotonic() + timeout_sec
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise _Broken("has no pipes")
        handle = stdout.fileno()

        def read(size: int) -> bytes:
            data = bytearray()
            while len(data) < size:
                if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise _Broken(f"took longer than {timeout_sec:g} s (ingest.parser_timeout_sec)")
                piece = os.read(handle, min(size - len(data), 2**20))
                if not piece:
                    raise _Broken(self._ending())
                data += piece
            return bytes(data)

        try:
            for piece in wire.pack(message):  # a few hundred bytes: fits the pipe, so this cannot block
                stdin.write(piece)
            stdin.flush()
            return wire.receive(read, self._max_bytes)
        except BrokenPipeError:
            raise _Broken(self._ending()) from None
        except (ValueError, KeyError, TypeError) as error:
            raise _Broken(f"gave no proper answer ({error})") from None

    def _ending(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), perhaps because the system ran out of memory"
        if code < 0:
            return f"crashed ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"


def _environment() -> dict[str, str]:
    """Nothing but where to find the code that this process itself runs, and one thread per library."""
    folders = [entry for entry in sys.path if entry and Path(entry).is_absolute()]
    kept = {name: os.environ[name] for name in ("TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(folders),
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "LC_ALL": "C.UTF-8",
    }
