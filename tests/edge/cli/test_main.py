"""How errors end the command, where no command of its own has caught them."""

from __future__ import annotations

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
