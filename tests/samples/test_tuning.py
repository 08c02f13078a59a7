"""The questions to tune with are sound: what `edge optimize data check` looks for is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimize.dataset.check import check
from optimize.dataset.files import read, read_all

FOLDER = Path(__file__).resolve().parents[2] / "samples" / "tuning"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_has_what_its_readme_says(path: Path) -> None:
    examples = read(path)
    assert len(examples) == 540
    assert len({example.passages for example in examples}) == 60
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_nothing_is_doubled_contradicts_or_is_out_of_its_text() -> None:
    report = check(read_all(FILES))
    assert [finding for finding in report.findings if finding.level != "info"] == []
    assert report.figures["answers_verbatim"] == report.figures["examples"] == 2700
