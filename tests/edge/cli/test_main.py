"""How errors end the command, where no command of its own has caught them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge.cli.main import cli, main


@pytest.mark.parametrize("how", ["cause", "context"])
def test_a_ctrl_c_while_a_native_module_is_loaded_is_one(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(standalone_mode: bool) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            if how == "cause":
                raise ImportError("initialization failed") from interrupt
            raise ImportError("initialization failed")  # noqa: B904  as native code does it

    monkeypatch.setattr(cli, "main", run)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_module_that_is_missing_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(standalone_mode: bool) -> None:
        raise ImportError("no module named numpy")

    monkeypatch.setattr(cli, "main", run)
    with pytest.raises(ImportError, match="numpy"):
        main()


def test_an_interrupt_that_comes_while_an_object_is_finalised_is_not_lost() -> None:
    program = """
import signal, sys, time
from edge.cli.main import raise_interrupt_again
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
sys.unraisablehook = raise_interrupt_again
class Reader:
    def __del__(self):
        raise error
for error in (ValueError("shown"), KeyboardInterrupt()):
    try:
        Reader()
        time.sleep(0.5)
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "interrupted\n"
    assert "shown" in done.stderr and "KeyboardInterrupt" not in done.stderr
