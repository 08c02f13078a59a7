"""The result file: written whole, read back the same, and refused where it is something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.bench.result import SCHEMA, SuiteResult, read, to_json, write
from edge.errors import ResultError
from tests.edge.bench.made import make_peer, make_result


def test_what_is_written_is_read(tmp_path: Path) -> None:
    result = make_result({"ttft_sec_p50": 0.5, "load_sec_p50": None})
    result.suites["latency"].absent("nobody looked", "load_sec_p50")
    result.peers = [make_peer("a", {"ttft_sec_p50": 0.25})]
    result.divide()
    path = write(result, tmp_path / "r.json")
    assert path == tmp_path / "r.json"
    assert read(path) == result
    assert result.ratios == {"ttft_sec_p50": 2.0}
    assert next(iter(json.loads(path.read_text()))) == "schema"


def test_a_partial_result_does_not_take_the_place_of_a_whole_one(tmp_path: Path) -> None:
    path = write(make_result({}, complete=False, errors=["peer: down"]), tmp_path / "r.json")
    assert path.name == "r.json.partial" and not (tmp_path / "r.json").exists()
    assert read(path).errors == ["peer: down"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "r.json").mkdir()
    with pytest.raises(ResultError, match="cannot be written"):
        write(make_result({}), tmp_path / "r.json")


def test_no_number_that_is_none_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write(make_result({"ttft_sec_p50": float("nan")}), tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_ratios_are_of_the_first_peer_that_has_the_metric() -> None:
    result = make_result({"ttft_sec_p50": 1.0, "rss_peak_bytes": 300})
    result.peers = [
        make_peer("server", {"ttft_sec_p50": 2.0}),
        make_peer("bench", {"ttft_sec_p50": 4.0, "rss_peak_bytes": 100}),
    ]
    result.divide()
    assert result.ratios == {"ttft_sec_p50": 0.5, "rss_peak_bytes": 3.0}
    assert result.peers[1].ratios == {"ttft_sec_p50": 0.25, "rss_peak_bytes": 3.0}
    assert result.metrics()["ratios.ttft_sec_p50"] == 0.5


def test_a_reason_is_kept_only_where_there_is_no_value() -> None:
    suite = SuiteResult(metrics={"a": 1.0})
    suite.absent("no", "a", "b")
    assert suite.metrics == {"a": 1.0, "b": None} and suite.reasons == {"b": "no"}


def plain() -> dict[str, object]:
    return to_json(make_result({"ttft_sec_p50": 0.5}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[1]", "no JSON object"),
        ("{}", "no schema number"),
        ('{"schema": true}', "no schema number"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"schema": 1, "x": NaN}', "NaN is no number"),
        (json.dumps({"schema": SCHEMA}), "environment is missing"),
        (json.dumps(plain() | {"suites": {"latency": 3}}), "damaged"),
        (json.dumps(plain() | {"suites": {"latency": {"metrics": {"a": "fast"}}}}), "'fast'"),
        (json.dumps(plain() | {"peers": [{"name": 1}]}), "name is not a str"),
        (json.dumps(plain() | {"complete": "yes"}), "complete is not a bool"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ResultError, match=message) as caught:
        read(tmp_path / "r.json")
    assert "r.json" in str(caught.value)


def test_other_schemas_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(plain() | {"schema": 0, "environment": {"versions": {"edge-slm": "0.0.9"}}}))
    with pytest.raises(ResultError, match=r"by edge-slm 0\.0\.9 in the older schema 0.*Run `edge bench` again"):
        read(path)
    path.write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(ResultError, match=r"newer schema.*Update edge-slm"):
        read(path)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"no such file\. Make it with"):
        read(tmp_path / "none.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultError, match="cannot be read"):
        read(tmp_path / "bytes")
    with pytest.raises(ResultError, match="cannot be read"):
        read(tmp_path)
