"""Which daemon serves an index: a lock that ends with its process, and how others on the box reach it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import ConfigError, StoreBusy


@contextmanager
def sole(index: Path) -> Iterator[None]:
    """Hold the index for this daemon alone.

    :raises StoreBusy: another daemon does.
    :raises ConfigError: the folder of the index cannot be written.
    """
    path = _file_of(index)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made: {error.strerror}; name another --index") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreBusy(f"another daemon serves {index}: stop it, or name another --index") from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


def reload_daemon(index: Path) -> bool:
    """Have the daemon that serves the index read configuration and bundle anew; False where none runs.

    :raises ConfigError: it belongs to somebody else.
    """
    try:
        handle = os.open(_file_of(index), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False  # nobody holds it
        except OSError:
            pid = os.read(handle, 32)
    finally:
        os.close(handle)
    if not pid.isdigit():
        return False  # it is starting, and has read nothing yet
    try:
        os.kill(int(pid), signal.SIGHUP)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise ConfigError(f"the daemon (process {int(pid)}) belongs to another user: `systemctl reload edge`") from None
    return True


def _file_of(index: Path) -> Path:
    return index.with_name(f"{index.name}.daemon")
