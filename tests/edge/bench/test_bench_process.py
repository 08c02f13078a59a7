"""Processes that a benchmark starts: timed and watched from outside, and ended with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.bench.process import evict, first_output_sec, in_page_cache, output_of, running, watched
from edge.errors import EdgeError

pytestmark = pytest.mark.process

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(condition: object, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("launcher", [False, True])
def test_a_process_ends_with_its_block_and_its_children_with_it(tmp_path: Path, launcher: bool) -> None:
    log = tmp_path / "log"
    with running(python(PARENT), log, launcher=launcher) as process:
        assert wait_for(lambda: log.read_text().strip())
        child = int(log.read_text())
        assert is_running(process.pid) and is_running(child)
    assert process.returncode is not None
    assert wait_for(lambda: not is_running(child))


def test_a_process_that_ignores_the_polite_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.bench.process._GRACE_SEC", 0.3)
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    with running(python(program), log) as process:
        assert wait_for(lambda: log.read_text().strip())
    assert process.returncode == -signal.SIGKILL


def test_a_launched_process_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from edge.bench.process import running\n"
        f"with running([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'], "
        f"Path({str(tmp_path / 'log')!r}), launcher=True) as process:\n"
        "    print(process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert wait_for(lambda: (tmp_path / "log").read_text().strip())  # it has become the command
        assert is_running(child)
        parent.kill()
    assert wait_for(lambda: not is_running(child))


def test_memory_is_of_the_whole_tree() -> None:
    fill = "import subprocess, sys, time; held = bytearray(60 * 2**20); held[::4096] = b'x' * len(held[::4096])"
    hold = f"{fill}; time.sleep(0.5)"
    alone = watched(python(hold), 0.01, 30)
    both = watched(python(f"{fill}; subprocess.run([sys.executable, '-c', {hold!r}])"), 0.01, 30)
    assert 60e6 < alone.private_bytes < 90e6
    assert 120e6 < both.private_bytes < 170e6
    assert alone.rss_bytes > alone.private_bytes and alone.file_bytes > 1e6
    assert alone.series[-1][0] >= 0.4


def test_a_command_that_fails_shows_what_it_printed() -> None:
    with pytest.raises(EdgeError, match="exit code 3: no such luck"):
        watched(python("import sys, time; time.sleep(0.2); sys.stderr.write('no such luck'); sys.exit(3)"), 0.01, 30)
    with pytest.raises(EdgeError, match=r"did not end within 0.3 s"):
        watched(python("import time; time.sleep(60)"), 0.01, 0.3)
    with pytest.raises(EdgeError, match="cannot be started: No such file"):
        watched(["/nowhere/program"], 0.01, 1)


def test_input_and_output() -> None:
    assert output_of(python("print('one'); import sys; print('two', file=sys.stderr)"), 30) == b"one\n"
    watched(python("import sys, time; time.sleep(0.1); sys.exit(sys.stdin.read() != 'given')"), 0.01, 30, b"given")
    with pytest.raises(EdgeError, match="exit code 1: bad"):
        output_of(python("import sys; sys.exit('bad')"), 30)
    with pytest.raises(EdgeError, match=r"within 0.2 s"):
        output_of(python("import time; time.sleep(60)"), 0.2)


def test_the_first_token_on_a_terminal() -> None:
    program = (
        "import sys, time; assert sys.stdout.isatty(); print('banner', flush=True); time.sleep(0.6); "
        "print('> question', flush=True); time.sleep(0.6); print('answer', flush=True); time.sleep(60)"
    )
    assert first_output_sec(python(program), 30) < 0.6
    assert 1.2 < first_output_sec(python(program), 30, after=b"> question") < 20


def test_a_command_that_writes_nothing() -> None:
    with pytest.raises(EdgeError, match=r"ended without a token.*broken"):
        first_output_sec(python("import sys; sys.exit('broken')"), 10)
    with pytest.raises(EdgeError, match=r"wrote no token within 0.3 s"):
        first_output_sec(python("import time; time.sleep(60)"), 0.3)
    with pytest.raises(EdgeError, match="only this"):
        first_output_sec(python("print('only this')"), 10, after=b"something else")


def test_files_can_be_dropped_from_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(2**20))
    file.read_bytes()
    assert in_page_cache([file])
    evict([file])
    if in_page_cache([file]):
        pytest.skip("this file system keeps what it holds in memory")
    file.read_bytes()
    assert in_page_cache([file])
